"""Cross-layer equalization: choice of maps, bit-identical outputs, similar ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.export.precision.equalize import Pair, equalized, hidden_pairs, rescaled
from irepdeploy.export.precision.inference import arrays_of, outputs_of
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from support.graph_writer import onnx_model
from support.networks import random_network

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def written(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: str = "y") -> onnx.ModelProto:
    return onnx_model(nodes, {"x": (1, 4, 6, 6)}, dict.fromkeys(outputs), constants)


def chain(*between: str, group: int = 1, second: str = "Conv") -> onnx.ModelProto:
    """Convolution (4 -> 8), operators between, and another convolution or a linear layer."""
    nodes, last = [make_node("Conv", ["x", "w1", "b1"], ["h"], "first", pads=[1] * 4)], "h"
    for index, kind in enumerate(between):
        pool = {"kernel_shape": [2, 2], "strides": [2, 2]} if kind in ("MaxPool", "AveragePool") else {}
        alpha = {"alpha": 0.25} if kind == "LeakyRelu" else {}
        nodes.append(make_node(kind, [last], [f"t{index}"], f"between{index}", **pool, **alpha))
        last = f"t{index}"
    constants = {"w1": weight(8, 4, 3, 3), "b1": weight(8)}
    if second == "Conv":
        constants |= {"w2": weight(6, 8 // group, 1, 1)}
        nodes.append(make_node("Conv", [last, "w2"], ["y"], "second", group=group))
    else:
        area = 1 if "GlobalAveragePool" in between else 9 if "MaxPool" in between else 36
        shape = (5, 8 * area) if second == "GemmT" else (8 * area, 5)
        constants |= {"w2": weight(*shape), "b2": weight(5)}
        nodes.append(make_node("Gemm", [last, "w2", "b2"], ["y"], "second", transB=int(second == "GemmT")))
    return written(nodes, constants)


CHAINS: dict[str, Callable[[], onnx.ModelProto]] = {
    "relu": lambda: chain("Relu"),
    "nothing between": lambda: chain(),
    "pools": lambda: chain("Relu", "MaxPool", "Identity", "AveragePool"),
    "leaky relu": lambda: chain("LeakyRelu"),
    "grouped": lambda: chain("Relu", group=2),
    "linear": lambda: chain("Relu", "GlobalAveragePool", "Flatten", second="GemmT"),
    "linear on maps": lambda: chain("Relu", "MaxPool", "Flatten", second="GemmT"),
    "linear, not transposed": lambda: chain("Flatten", second="Gemm"),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_the_same_outputs(kind: str) -> None:
    model = CHAINS[kind]()
    assert hidden_pairs(model) == [Pair("first", "second", 8)]
    x = RNG.standard_normal((3, 4, 6, 6), dtype=np.float32)
    expected = outputs_of(model, x)["y"]
    scale = 10 ** RNG.uniform(-1, 1, 8)
    spread = rescaled(model, {Pair("first", "second", 8): scale})
    np.testing.assert_allclose(outputs_of(spread, x)["y"], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert np.allclose(arrays_of(spread)["w1"] * scale[:, None, None, None], arrays_of(model)["w1"], rtol=1e-6)
    assert not np.array_equal(arrays_of(spread)["w2"], arrays_of(model)["w2"])
    before = serialized(spread)
    level, factors = equalized(spread)
    assert serialized(spread) == before
    # Powers of two: to the bit.
    assert np.array_equal(outputs_of(level, x)["y"], outputs_of(spread, x)["y"])
    (found,) = factors.values()
    assert np.array_equal(np.exp2(np.rint(np.log2(found))), found)
    again, factors = equalized(level)
    assert (factors[Pair("first", "second", 8)] == 1).all() and serialized(again) == serialized(level)


def test_ranges_are_alike_afterwards() -> None:
    model = chain("Relu")
    spread = rescaled(model, {Pair("first", "second", 8): 10 ** np.linspace(-2, 2, 8)})
    rows, columns = ranges_of(spread)
    assert rows.max() / rows.min() > 1000
    rows, columns = ranges_of(equalized(spread)[0])
    assert rows.max() / rows.min() < 8
    # Half a bit each way.
    assert (np.abs(np.log2(rows / columns)) <= 1 + 1e-6).all()


def ranges_of(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    arrays = arrays_of(model)
    return np.abs(arrays["w1"]).max((1, 2, 3)), np.abs(arrays["w2"]).max((0, 2, 3))


def test_a_whole_network(trained: onnx.ModelProto) -> None:
    pairs = hidden_pairs(trained)
    assert [(pair.first, pair.second) for pair in pairs][-2:] == [
        ("stages.2.0.conv", "stages.2.1.conv"),
        ("stages.2.1.conv", "head"),
    ]
    assert len(pairs) == 6
    rng = np.random.default_rng(1)
    spread = rescaled(trained, {pair: 10 ** rng.uniform(-1, 1, pair.channels) for pair in pairs})
    x = rng.standard_normal((8, 1, 16, 16), dtype=np.float32)
    level, _ = equalized(spread)
    assert np.array_equal(outputs_of(level, x)["logits"], outputs_of(spread, x)["logits"])
    onnx.checker.check_model(level, full_check=True)


def test_maps_that_something_else_reads_are_left_alone() -> None:
    model = onnx_from_torch(random_network("resnet18_cifar"), [TensorSpec("input", (1, 3, 16, 16))], ["logits"])
    pairs = [(pair.first, pair.second) for pair in hidden_pairs(model)]
    # Only within a block, since the shortcut around it is added.
    assert pairs == [(f"layer{i}.{j}.conv1", f"layer{i}.{j}.conv2") for i in range(1, 5) for j in range(2)]


def first(**attributes: object) -> onnx.NodeProto:
    return make_node("Conv", ["x", "w1", "b1"], ["h"], "first", **attributes)


W = {"w1": weight(8, 4, 1, 1), "b1": weight(8), "w2": weight(6, 8, 1, 1)}
SECOND = make_node("Conv", ["r", "w2"], ["y"], "second")

LEFT_ALONE = {
    "read twice": ([first(), make_node("Relu", ["h"], ["r"]), SECOND, make_node("Relu", ["h"], ["z"])], W, "yz"),
    "an output": ([first(), make_node("Relu", ["h"], ["r"]), SECOND], W, "yr"),
    "sigmoid": ([first(), make_node("Sigmoid", ["h"], ["r"]), SECOND], W, "y"),
    "relu6": (
        [first(), make_node("Clip", ["h", "", "six"], ["r"]), SECOND],
        {**W, "six": np.array(6, np.float32)},
        "y",
    ),
    "other flatten": ([first(), make_node("Flatten", ["h"], ["r"], axis=2), SECOND], W, "y"),
    "shared weight": (
        [
            make_node("Conv", ["x", "w"], ["h"], "first"),
            make_node("Relu", ["h"], ["r"]),
            make_node("Conv", ["r", "w"], ["y"], "second"),
        ],
        {"w": weight(4, 4, 1, 1)},
        "y",
    ),
    "weight that is computed": (
        [first(), make_node("Relu", ["w2"], ["w3"]), make_node("Conv", ["h", "w3"], ["y"], "second")],
        W,
        "y",
    ),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_left_alone(kind: str) -> None:
    model = written(*LEFT_ALONE[kind])
    assert hidden_pairs(model) == []
    same, factors = equalized(model)
    assert factors == {} and serialized(same) == serialized(model)


def test_dead_channels_and_bad_factors() -> None:
    model = chain("Relu")
    arrays = arrays_of(model)
    for name, row in (("w1", np.s_[3]), ("w2", np.s_[:, 5])):
        changed = arrays[name].copy()
        changed[row] = 0
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed, name))
    _, factors = equalized(model)
    (scale,) = factors.values()
    assert scale[3] == scale[5] == 1 and np.isfinite(scale).all()
    pair = Pair("first", "second", 8)
    for bad in (np.ones(7), np.zeros(8), -np.ones(8), np.full(8, np.inf)):
        with pytest.raises(InputError, match="first: expected 8 positive factors"):
            rescaled(model, {pair: bad})
