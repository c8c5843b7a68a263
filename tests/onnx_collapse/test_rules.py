"""Every linear operator, in the forms of every opset, merges into the convolution before or after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from irepdeploy.onnx_collapse import collapse

RNG = np.random.default_rng(0)
W3 = RNG.standard_normal((4, 4, 3, 3))
W1 = RNG.standard_normal((4, 4, 1, 1))
BIAS = RNG.standard_normal(4)
BN = {
    "g": RNG.standard_normal(4),
    "b": RNG.standard_normal(4),
    "m": RNG.standard_normal(4),
    "v": RNG.uniform(0.5, 2, 4),
}
SAME = {"pads": [1, 1, 1, 1]}
CONV = ("Conv", ["x", "w", "bias"], ["c"], SAME)
INT64 = np.int64


def ints(*values: int) -> Any:
    return np.asarray(values, INT64)


# Behind a 3x3 convolution with a bias: name, opset, nodes from "c" to "y", constants.
BEHIND: list[tuple[str, int, list[Any], dict[str, Any]]] = [
    ("batch normalization", 9, [("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], {"epsilon": 0.1})], BN),
    ("batch normalization 15", 15, [("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])], BN),
    ("identity", 13, [("Identity", ["c"], ["y"])], {}),
    ("dropout 7", 7, [("Dropout", ["c"], ["y"], {"ratio": 0.3})], {}),
    ("dropout 12", 12, [("Dropout", ["c", "r"], ["y", "mask"])], {"r": np.float32(0.3)}),
    ("dropout off", 13, [("Dropout", ["c", "r", "t"], ["y"])], {"r": np.float32(0.3), "t": np.asarray(False)}),
    ("scale by channel", 13, [("Mul", ["c", "s"], ["y"])], {"s": BIAS.reshape(1, 4, 1, 1)}),
    ("scale, constant first", 13, [("Mul", ["s", "c"], ["y"])], {"s": BIAS.reshape(4, 1, 1)}),
    ("scale by one number", 13, [("Mul", ["c", "s"], ["y"])], {"s": np.asarray(2.5)}),
    ("division", 13, [("Div", ["c", "s"], ["y"])], {"s": BIAS.reshape(4, 1, 1)}),
    ("negative", 13, [("Neg", ["c"], ["y"])], {}),
    ("constant added", 13, [("Add", ["c", "s"], ["y"])], {"s": BIAS.reshape(1, 4, 1, 1)}),
    ("constant subtracted", 13, [("Sub", ["c", "s"], ["y"])], {"s": np.asarray([0.7])}),
    ("subtracted from a constant", 13, [("Sub", ["s", "c"], ["y"])], {"s": BIAS.reshape(1, 4, 1, 1)}),
    ("sum of three", 13, [("Sum", ["c", "s", "x"], ["y"])], {"s": BIAS.reshape(1, 4, 1, 1)}),
    ("mean with its input", 13, [("Mean", ["c", "x"], ["y"])], {}),
    ("difference to its input", 13, [("Sub", ["x", "c"], ["y"])], {}),
    ("both operands the same", 13, [("Add", ["c", "c"], ["y"])], {}),
    ("1x1", 13, [("Conv", ["c", "w1"], ["y"])], {"w1": W1}),
    ("1x1 by 2 with a stride", 13, [("Conv", ["c", "w1"], ["y"], {"strides": [2, 3]})], {"w1": W1}),
    ("depthwise 1x1", 13, [("Conv", ["c", "w1"], ["y"], {"group": 4})], {"w1": W1[:, :1]}),
    ("crop by pads", 10, [("Pad", ["c"], ["y"], {"pads": [0, 0, -1, -2, 0, 0, -1, 0]})], {}),
    ("crop by pads 11", 11, [("Pad", ["c", "p"], ["y"])], {"p": ints(0, 0, -1, -2, 0, 0, -1, 0)}),
    ("crop by pads 18", 18, [("Pad", ["c", "p", "", "a"], ["y"])], {"p": ints(-1, -2, -1, 0), "a": ints(2, -1)}),
    ("cut 9", 9, [("Slice", ["c"], ["y"], {"starts": [1], "ends": [-1], "axes": [2]})], {}),
    ("cut 10", 10, [("Slice", ["c", "s", "e", "a"], ["y"])], {"s": ints(1, 0), "e": ints(99, -1), "a": ints(2, 3)}),
    ("every second", 13, [("Slice", ["c", "s", "e", "a", "t"], ["y"])],
     {"s": ints(1, 0), "e": ints(2**31, 2**62), "a": ints(2, -1), "t": ints(2, 2)}),
    ("average pool without padding", 13, [("AveragePool", ["c"], ["y"], {"kernel_shape": [1, 1], "strides": [2, 2]})],
     {}),
    ("channels cut", 13, [("Slice", ["c", "s", "e", "a"], ["y"])], {"s": ints(1), "e": ints(3), "a": ints(1)}),
    ("split and added 11", 11,
     [("Split", ["c"], ["a", "b2"], {"axis": 1, "split": [2, 2]}), ("Add", ["a", "b2"], ["y"])], {}),
    ("split and added 13", 13,
     [("Split", ["c", "n"], ["a", "b2"], {"axis": 1}), ("Add", ["a", "b2"], ["y"])], {"n": ints(2, 2)}),
    ("split and added 18", 18,
     [("Split", ["c"], ["a", "b2"], {"axis": -3, "num_outputs": 2}), ("Add", ["a", "b2"], ["y"])], {}),
    ("there and back", 13,
     [("Transpose", ["c"], ["t"], {"perm": [0, 2, 3, 1]}),
      ("Transpose", ["t"], ["y"], {"perm": [0, 3, 1, 2]})], {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("opset", "nodes", "constants"), [case[1:] for case in BEHIND], ids=[case[0] for case in BEHIND]
)
def test_behind_a_convolution(
    opset: int, nodes: list[Any], constants: dict[str, Any], model_of: Any, largest_difference: Callable[..., float]
) -> None:
    model = model_of(
        [CONV, *nodes, ("Relu", ["y"], ["z"])],
        {"w": W3, "bias": BIAS, **constants},
        {"x": (1, 4, 8, 9)},
        ["z"],
        opset=opset,
    )
    found = collapse(model)
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu"]
    assert largest_difference(model, found.content) < 1e-5
    (region,) = found.regions
    assert region.collapsed and not region.reason
    assert max(region.error_interior or 0, region.error_border or 0) < 1e-13


def test_before_a_convolution(collapsed: Any) -> None:
    """Operators before a convolution without padding: scale, shift, crop, constant padding, reversed channels."""
    nodes = [
        ("BatchNormalization", ["x", "g", "b", "m", "v"], ["a"]),
        ("Slice", ["a", "s", "e", "ax", "st"], ["d"]),
        ("Conv", ["d", "w"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"w": W3, **BN, "s": ints(3), "e": ints(-9), "ax": ints(1), "st": ints(-1)}
    found = collapsed(nodes, constants, {"x": (2, 4, 8, 9)}, ["z"])
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
def test_auto_pad(padding: str, size: tuple[int, int], collapsed: Any) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"auto_pad": padding, "strides": [2, 3]}),
        ("Mul", ["c", "s"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    found = collapsed(nodes, {"w": W3, "s": np.asarray(2.0)}, {"x": (1, 4, *size)}, ["z"])
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize(
    ("attributes", "merges"),
    [
        ({"pads": [1, 1, 1, 1], "count_include_pad": 1}, True),
        ({"pads": [1, 1, 1, 1]}, False),
        ({"pads": [1, 0, 1, 0], "count_include_pad": 1, "strides": [2, 2]}, True),
        ({"ceil_mode": 1, "strides": [2, 2]}, True),  # 9 - 3 is even: no window is added
        ({"auto_pad": "SAME_UPPER"}, False),
        ({"auto_pad": "SAME_UPPER", "count_include_pad": 1}, True),
    ],
)
def test_average_pools(attributes: dict[str, Any], merges: bool, collapsed: Any) -> None:
    """An average pool beside a convolution of its window: one convolution where it counts what it pads."""
    pool = {"kernel_shape": [3, 3], **attributes}
    same = {key: pool[key] for key in ("pads", "strides", "auto_pad") if key in pool}
    nodes = [
        ("AveragePool", ["x"], ["a"], pool),
        ("Conv", ["x", "w"], ["c"], same),
        ("Add", ["a", "c"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    found = collapsed(nodes, {"w": W3}, {"x": (1, 4, 9, 9)}, ["z"])
    assert found.operators_after["AveragePool"] == (0 if merges else 1)
    if not merges:
        assert "does not count its padding" in found.regions[0].reason


def test_a_pool_that_reaches_over_its_padding(collapsed: Any) -> None:
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
    nodes = [("AveragePool", ["c"], ["a"], pool), ("Mul", ["a", "s"], ["y"]), ("Relu", ["y"], ["z"])]
    found = collapsed(
        [("Conv", ["x", "w"], ["c"], SAME), *nodes], {"w": W3, "s": np.asarray(2.0)}, {"x": (1, 4, 8, 8)}, ["z"]
    )
    assert found.operators_after["AveragePool"] == 1


def test_convolutions_joined(collapsed: Any) -> None:
    """Two of the same window with a concatenation behind them, then a split: one convolution."""
    nodes = [
        ("Conv", ["x", "w"], ["a"], SAME),
        ("Conv", ["x", "w2", "bias"], ["b"], SAME),
        ("Concat", ["a", "b"], ["c"], {"axis": 1}),
        ("Conv", ["c", "w1"], ["y"], {"group": 2}),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"w": W3, "w2": W3[::-1].copy(), "bias": BIAS, "w1": RNG.standard_normal((8, 4, 1, 1))}
    found = collapsed(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_kept(groups: int, collapsed: Any) -> None:
    """3x3 + 1x1 + BN of the same groups: the greatest common divisor of the groups."""
    nodes = [
        ("Conv", ["x", "w"], ["a"], {**SAME, "group": groups}),
        ("Conv", ["x", "w1"], ["c"], {"group": 4}),
        ("BatchNormalization", ["x", "g", "b", "m", "v"], ["d"]),
        ("Sum", ["a", "c", "d"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    eight = {name: np.concatenate([value, value]) for name, value in BN.items()}
    constants = {"w": RNG.standard_normal((8, 8 // groups, 3, 3)), "w1": RNG.standard_normal((8, 2, 1, 1)), **eight}
    found = collapsed(nodes, constants, {"x": (1, 8, 8, 9)}, ["z"])
    conv = found.model.graph.node[0]
    assert [node.op_type for node in found.model.graph.node] == ["Conv", "Relu"]
    assert next(item.i for item in conv.attribute if item.name == "group") == groups


def test_a_transposed_convolution_is_refused(model_of: Any) -> None:
    nodes = [
        ("ConvTranspose", ["x", "w"], ["t"], {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["t", "g", "b", "m", "v"], ["y"]),
    ]
    model = model_of(nodes, {"w": W3, **BN}, {"x": (1, 4, 8, 9)})
    found = collapse(model)
    assert not found.changed and found.content == model.SerializeToString(deterministic=True)
    assert "transposed convolution" in found.regions[0].reason


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("Div", ["s", "c"], ["y"])], {"s": np.asarray(2.0)}),
        ([("Mul", ["c", "c"], ["y"])], {}),
        ([("Mul", ["c", "s"], ["y"])], {"s": RNG.standard_normal((8, 9))}),
        ([("Mul", ["c", "s"], ["y"])], {"s": np.asarray(np.inf)}),
        ([("Add", ["c", "s"], ["y"])], {"s": RNG.standard_normal((3, 4, 1, 1))}),
        ([("Pad", ["c", "p"], ["y"], {"mode": "reflect"})], {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
        ([("Pad", ["c", "p"], ["y"])], {"p": ints(0, 1, 0, 0, 0, 1, 0, 0)}),
        ([("Slice", ["c", "s", "e", "a", "t"], ["y"])], {"s": ints(-1), "e": ints(-99), "a": ints(3), "t": ints(-1)}),
        ([("Concat", ["c", "c"], ["y"], {"axis": 2})], {}),
        ([("Dropout", ["c", "r", "t"], ["y"])], {"r": np.float32(0.5), "t": np.asarray(True)}),
    ],
)
def test_what_is_not_linear_stays(nodes: list[Any], constants: dict[str, Any], model_of: Any) -> None:
    model = model_of(
        [CONV, *nodes, ("Relu", ["y"], ["z"])], {"w": W3, "bias": BIAS, **constants}, {"x": (1, 4, 8, 9)}, ["z"]
    )
    found = collapse(model)
    assert not found.changed and found.content == model.SerializeToString(deterministic=True)


def test_one_channel_that_becomes_many_is_no_convolution(model_of: Any) -> None:
    """A constant of four channels added to a map of one makes four; height alike."""
    for shape in ((1, 4, 1, 1), (1, 1, 8, 1)):
        nodes = [("Conv", ["x", "w"], ["c"]), ("Add", ["c", "s"], ["y"]), ("Relu", ["y"], ["z"])]
        constants = {"w": W1[:1, :1], "s": RNG.standard_normal(shape)}
        assert not collapse(model_of(nodes, constants, {"x": (1, 1, 1, 1)}, ["z"])).changed


def test_the_names_of_outputs_stay(model_of: Any) -> None:
    model = model_of(
        [CONV, ("Mul", ["c", "s"], ["y"])], {"w": W3, "bias": BIAS, "s": np.asarray(2.0)}, {"x": (1, 4, 8, 9)}
    )
    found = collapse(model)
    assert [value.name for value in found.model.graph.output] == ["y"]
    onnx.checker.check_model(found.model, full_check=True)
