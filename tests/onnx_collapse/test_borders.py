"""The border is exact, refused with the reason, or a constant map; it is never silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from irepdeploy.onnx_collapse import collapse

RNG = np.random.default_rng(1)
W3, K3, W1 = RNG.standard_normal((4, 4, 3, 3)), RNG.standard_normal((4, 4, 3, 3)), RNG.standard_normal((4, 4, 1, 1))
BIAS = RNG.standard_normal(4)
SAME = {"pads": [1, 1, 1, 1]}
Difference = Callable[..., float]


def kinds(found: Any) -> list[str]:
    return [node.op_type for node in found.model.graph.node]


def chain_beside(bias: bool) -> list[Any]:
    """A 3x3 beside a 1x1 -> 3x3 that pads with zeros."""
    return [
        ("Conv", ["x", "w"], ["a"], SAME),
        ("Conv", ["x", "w1", *(["bias"] if bias else [])], ["m"]),
        ("Conv", ["m", "k"], ["b"], SAME),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]


CHAIN = {"w": W3, "k": K3, "w1": W1, "bias": BIAS}


def test_without_a_bias_a_chain_is_exact(collapsed: Any) -> None:
    found = collapsed(chain_beside(False), CHAIN, {"x": (1, 4, 8, 9)}, ["z"])
    assert kinds(found) == ["Conv", "Relu"]


def test_a_bias_before_zero_padding_is_refused(model_of: Any, largest_difference: Difference) -> None:
    model = model_of(chain_beside(True), CHAIN, {"x": (1, 4, 8, 9)}, ["z"])
    found = collapse(model)
    assert not found.changed
    assert "pads with zeros behind a bias" in found.regions[0].reason
    assert found.content == model.SerializeToString(deterministic=True)


def test_or_becomes_a_map(collapsed: Any) -> None:
    found = collapsed(chain_beside(True), CHAIN, {"x": (1, 4, 8, 9)}, ["z"], border="map")
    assert kinds(found) == ["Conv", "Add", "Relu"]
    (region,) = found.regions
    assert region.error_border is not None and region.error_border < 1e-14


def test_a_map_needs_sizes(model_of: Any) -> None:
    model = model_of(chain_beside(True), CHAIN, {"x": ("N", 4, "H", "W")}, ["z"])
    found = collapse(model, border="map")
    assert not found.changed and "pads with zeros behind a bias" in found.regions[0].reason


def test_two_paddings_in_a_row_are_no_convolution(model_of: Any, largest_difference: Difference) -> None:
    """The second pads with zeros where the first alone would have continued."""
    nodes = [
        ("Conv", ["x", "w"], ["m"], {**SAME, "group": 4}),
        ("Conv", ["m", "k"], ["b"], {**SAME, "group": 4}),
        ("Conv", ["x", "v"], ["a"], {"pads": [2, 2, 2, 2]}),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"w": W3[:, :1], "k": K3[:, :1], "v": RNG.standard_normal((4, 4, 5, 5))}
    for size in ((8, 9), (3, 2), ("H", "W")):
        model = model_of(nodes, constants, {"x": (1, 4, *size)}, ["z"])
        found = collapse(model, border="map")
        assert not found.changed and "where it is not zero" in found.regions[0].reason, size


def test_two_windows_without_padding_are_one(collapsed: Any) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["m"], {"group": 4}),
        ("Conv", ["m", "k"], ["b"], {"group": 4}),
        ("Conv", ["x", "v"], ["a"]),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"w": W3[:, :1], "k": K3[:, :1], "v": RNG.standard_normal((4, 4, 5, 5))}
    found = collapsed(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    assert kinds(found) == ["Conv", "Relu"]


def test_a_crop_then_a_padding(collapsed: Any) -> None:
    """Zeros replace parts of the map."""
    nodes = [
        ("Slice", ["x", "s", "e", "ax"], ["m"]),
        ("Conv", ["m", "w"], ["b"], SAME),
        ("BatchNormalization", ["b", "bias", "bias", "bias", "v"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"s": [1], "e": [2**40], "ax": [2], "w": W3, "bias": BIAS, "v": BIAS**2}
    found = collapsed(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    assert kinds(found) == ["Slice", "Conv", "Relu"]


def shifted(z: Any, *, beside: bool = True) -> tuple[list[Any], dict[str, Any]]:
    """A 1x1 with a bias, padded with `z`, then a 3x3: as a padding by the image of zero is written without scatter."""
    nodes = [
        ("Conv", ["x", "w"], ["a"], SAME),
        ("Conv", ["x", "w1", "bias"], ["m"]),
        ("Sub", ["m", "zero"], ["c"]),
        ("Pad", ["c", "pads"], ["d"]),
        ("Add", ["d", "zero"], ["e"]),
        ("Conv", ["e", "k"], ["b"]),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    return nodes, {**CHAIN, "zero": np.reshape(z, (1, 4, 1, 1)), "pads": [0, 0, 1, 1, 0, 0, 1, 1]}


@pytest.mark.parametrize("size", [(8, 9), ("H", "W")])
def test_padding_with_the_image_of_zero_is_exact(
    size: tuple[Any, Any], model_of: Any, largest_difference: Difference
) -> None:
    nodes, constants = shifted(BIAS)
    model = model_of(nodes, constants, {"x": (1, 4, *size)}, ["z"])
    found = collapse(model)
    assert kinds(found) == ["Conv", "Relu"]
    assert largest_difference(model, found.content, {"x": (1, 4, 8, 9)}) < 1e-5
    assert largest_difference(model, found.content, {"x": (1, 4, 3, 1)} if size[0] == "H" else None) < 1e-5


def test_a_border_that_is_rounded_is_told(model_of: Any, largest_difference: Difference) -> None:
    """The file's float32 of the border is not the bias: 1e-8, printed; the inside is exact."""
    nodes, constants = shifted(BIAS.astype(np.float32) * np.float32(1 + 2e-7))
    model = model_of(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    found = collapse(model)
    (region,) = found.regions
    assert kinds(found) == ["Conv", "Relu"]
    assert region.error_interior is not None and region.error_interior < 1e-14
    assert region.error_border is not None and 1e-9 < region.error_border < 1e-6


@pytest.mark.parametrize("wrong", [1 + 1e-4, 1.1, 0.0])
def test_a_border_that_is_wrong_is_refused(wrong: float, collapsed: Any) -> None:
    nodes, constants = shifted(BIAS * wrong)
    found = collapsed(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"], tolerance=1e-6)
    assert found.operators_after["Conv"] > 1
    assert "which is not a convolution at the border" in found.regions[0].reason


def scattered(value: Any, *, top: int = 0, opset: int = 17) -> tuple[list[Any], dict[str, Any]]:
    """A 1x1 with a bias, padded with zeros whose first row and column are overwritten, then a 3x3."""
    nodes = [
        ("Conv", ["x", "w1", "bias"], ["m"]),
        ("Pad", ["m", "pads"], ["d"]),
        ("ScatterND", ["d", "rows", "row"], ["e"]),
        ("ScatterElements", ["e", "columns", "column"], ["f"], {"axis": 3}),
        ("Conv", ["f", "k"], ["b"]),
        ("BatchNormalization", ["b", "bias", "bias", "bias", "v"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    grid = np.stack(np.meshgrid([0], range(4), [top], range(10), indexing="ij"), -1)
    row = np.broadcast_to(np.reshape(value, (1, 4, 1, 1)), (1, 4, 1, 10))
    column = np.broadcast_to(np.reshape(value, (1, 4, 1, 1)), (1, 4, 9, 1))
    constants = {
        **CHAIN, "v": BIAS**2, "pads": [0, 0, 1, 1, 0, 0, 0, 0], "rows": grid.astype(np.int64),
        "row": np.array(row), "columns": np.zeros((1, 4, 9, 1), np.int64), "column": np.array(column),
    }  # fmt: skip
    return nodes, constants


def test_a_border_written_by_scatter(collapsed: Any) -> None:
    nodes, constants = scattered(BIAS)
    found = collapsed(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    assert kinds(found) == ["Conv", "Relu"]


@pytest.mark.parametrize("value", [BIAS * 1.1, np.zeros(4)])
def test_a_border_that_scatter_writes_wrong(value: Any, model_of: Any, largest_difference: Difference) -> None:
    nodes, constants = scattered(value)
    model = model_of(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    found = collapse(model)
    assert found.operators_after["Conv"] == 2 and largest_difference(model, found.content) < 1e-5
    mapped = collapse(model, border="map")
    assert kinds(mapped) == ["Conv", "Add", "Relu"] and largest_difference(model, mapped.content) < 1e-5


def test_a_scatter_into_the_map(model_of: Any, largest_difference: Difference) -> None:
    nodes, constants = scattered(BIAS, top=3)
    model = model_of(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"])
    for border in ("refuse", "map"):
        found = collapse(model, border=border)  # type: ignore[arg-type]
        assert found.operators_after["ScatterND"] == 1 and largest_difference(model, found.content) < 1e-5
        assert any("positions that depend on the input" in region.reason for region in found.regions)


def test_a_scatter_of_one_sample(model_of: Any, largest_difference: Difference) -> None:
    """The second sample's border is not written."""
    nodes, constants = scattered(BIAS)
    model = model_of([*nodes[:3], ("Relu", ["e"], ["z"])], constants, {"x": (2, 4, 8, 9)}, ["z"])
    found = collapse(model)
    assert found.operators_after["ScatterND"] == 1
    assert any("samples of a batch differently" in region.reason for region in found.regions)


@pytest.mark.parametrize("value", [0.7, -3.0])
def test_a_padding_of_a_number(value: float, model_of: Any, largest_difference: Difference) -> None:
    """Not a convolution, unless the number equals the bias."""
    nodes = [
        ("Conv", ["x", "w", "bias"], ["m"]),
        ("Pad", ["m", "pads", "value"], ["d"]),
        ("Conv", ["d", "k"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"w": W1, "k": K3, "pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": np.asarray(value)}
    for bias, merges in ((np.full(4, value), True), (BIAS, False)):
        model = model_of(nodes, {**constants, "bias": bias}, {"x": (1, 4, 8, 9)}, ["z"])
        found = collapse(model)
        assert found.changed == merges and largest_difference(model, found.content) < 1e-5
        mapped = collapse(model, border="map")
        assert kinds(mapped) == (["Conv", "Relu"] if merges else ["Conv", "Add", "Relu"])
        assert largest_difference(model, mapped.content) < 1e-5


@pytest.mark.parametrize("border", ["refuse", "map"])
def test_a_constant_by_position(border: Any, collapsed: Any) -> None:
    nodes = [
        ("Conv", ["x", "w"], ["a"], SAME),
        ("Conv", ["x", "w1"], ["b"]),
        ("Add", ["a", "map"], ["c"]),
        ("Add", ["b", "c"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {**CHAIN, "map": RNG.standard_normal((4, 8, 9))}
    found = collapsed(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"], border=border)
    assert found.operators_after["Conv"] == (1 if border == "map" else 2)


def test_free_sizes_where_nothing_depends_on_them(model_of: Any, largest_difference: Difference) -> None:
    nodes = [
        ("Conv", ["x", "w", "bias"], ["a"], {**SAME, "strides": [2, 2]}),
        ("Conv", ["x", "w1", "bias"], ["b"], {"strides": [2, 2]}),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    model = model_of(nodes, CHAIN, {"x": ("N", 4, "H", "W")}, ["z"])
    found = collapse(model)
    assert kinds(found) == ["Conv", "Relu"]
    for size in ((8, 9), (1, 1), (7, 4)):
        assert largest_difference(model, found.content, {"x": (2, 4, *size)}) < 1e-5


def test_free_sizes_and_paddings_that_differ(model_of: Any) -> None:
    """Shapes agree for even sizes only; such a sum runs for some sizes only and is left alone."""
    nodes = [
        ("Conv", ["x", "w"], ["a"], {**SAME, "strides": [2, 2]}),
        ("Conv", ["x", "w2"], ["b"], {"strides": [2, 2]}),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {**CHAIN, "w2": RNG.standard_normal((4, 4, 2, 2))}
    dynamic = collapse(model_of(nodes, constants, {"x": (1, 4, "H", "W")}, ["z"]))
    assert not dynamic.changed and "paddings differ" in dynamic.regions[0].reason
    assert collapse(model_of(nodes, constants, {"x": (1, 4, 8, 8)}, ["z"])).changed


def test_free_sizes_a_bias_and_a_stride(model_of: Any) -> None:
    nodes = chain_beside(True)
    for place in (0, 2):
        nodes[place] = (*nodes[place][:3], {**SAME, "strides": [2, 2]})
    found = collapse(model_of(nodes, CHAIN, {"x": (1, 4, "H", "W")}, ["z"]))
    assert not found.changed and "depends on dynamic sizes" in found.regions[0].reason


def test_a_map_is_rounded_to_the_files_type(model_of: Any, largest_difference: Difference) -> None:
    model = model_of(chain_beside(True), CHAIN, {"x": (1, 4, 8, 9)}, ["z"], kind=TensorProto.DOUBLE)
    found = collapse(model, border="map")
    assert {item.data_type for item in found.model.graph.initializer} == {TensorProto.DOUBLE}
