"""The proof of a region finds its faults, and the region then stays unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from irepdeploy.onnx_collapse import builder, collapse
from irepdeploy.onnx_collapse.emit import Emitted, emit
from irepdeploy.onnx_collapse.form import source_form
from irepdeploy.onnx_collapse.proof import border_tolerance

RNG = np.random.default_rng(6)
NODES = [
    ("Conv", ["x", "w", "bias"], ["a"], {"pads": [1, 1, 1, 1]}),
    ("Conv", ["x", "w1"], ["b"]),
    ("Add", ["a", "b"], ["y"]),
    ("Relu", ["y"], ["z"]),
]
CONSTANTS = {
    "w": RNG.standard_normal((4, 4, 3, 3)),
    "w1": RNG.standard_normal((4, 4, 1, 1)),
    "bias": RNG.standard_normal(4),
}


def kernel(emitted: Emitted) -> None:
    """One weight of the 3x3's corner, which only the inside and two borders see."""
    emitted.arrays["y.weight"][1, 2, 0, 0] *= 1 + 1e-6


def bias(emitted: Emitted) -> None:
    emitted.arrays["y.bias"][3] *= 1 + 1e-8


def padding(emitted: Emitted) -> None:
    """The map moves by one pixel: the same numbers at other positions."""
    (node,) = emitted.every_node
    pads = next(item for item in node.attribute if item.name == "pads")
    pads.ints[:] = [0, 1, 2, 1]


def turned(emitted: Emitted) -> None:
    emitted.arrays["y.weight"] = np.ascontiguousarray(emitted.arrays["y.weight"].swapaxes(2, 3))


def nothing(emitted: Emitted) -> None:
    pass


@pytest.mark.parametrize("mistake", [kernel, bias, padding, turned, nothing])
@pytest.mark.parametrize("size", [(8, 9), (60, 50), ("H", "W")])
def test_a_mistake_shows(
    mistake: Callable[[Emitted], None], size: Any, model_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any) -> None:
        emit(*args)
        mistake(args[-1])

    monkeypatch.setattr(builder, "emit", wrong)
    model = model_of(NODES, CONSTANTS, {"x": (1, 4, *size)}, ["z"])
    found = collapse(model)
    if mistake is nothing:
        assert found.changed
        return
    assert not found.changed and found.content == model.SerializeToString(deterministic=True)
    assert "its proof failed" in found.regions[0].reason


def test_a_map_without_an_inside_has_no_error_there(model_of: Any) -> None:
    found = collapse(model_of(NODES, CONSTANTS, {"x": (1, 4, 2, 2)}, ["z"]))
    (region,) = found.regions
    assert region.error_interior is None and region.error_border is not None and region.error_border < 1e-14


def test_what_the_border_may_differ_by() -> None:
    """Nothing, unless constants of the border are in the file; then as its floats are rounded."""
    form = source_form("x", 1, (2, 2), dynamic=False, numeric=True, rounding=2.0**-24)
    assert border_tolerance(form) == 1e-10
    rounded = [
        border_tolerance(type(form)(**{**vars(form), "residue": 1e-8, "rounding": 2.0**-bits})) for bits in (11, 24, 53)
    ]
    assert rounded[0] == pytest.approx(1e-6 * 2**13) and rounded[1:] == [1e-6, 1e-10]


def test_half_precision_at_the_border(model_of: Any) -> None:
    """The image of zero in float16: taken for the bias, and its residue told."""
    bias = CONSTANTS["bias"]
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("Conv", ["x", "w1"], ["m"]),
        ("BatchNormalization", ["m", "one", "bias", "none", "one"], ["n"], {"epsilon": 1e-3}),
        ("Sub", ["n", "zero"], ["c"]),
        ("Pad", ["c", "pads"], ["d"]),
        ("Add", ["d", "zero"], ["e"]),
        ("Conv", ["e", "w"], ["b"]),
        ("Add", ["a", "b"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {
        **CONSTANTS, "one": np.ones(4), "none": RNG.standard_normal(4) * 0.1, "pads": [0, 0, 1, 1, 0, 0, 1, 1],
    }  # fmt: skip
    half = {
        name: np.asarray(value, np.float16).astype(np.float64) for name, value in constants.items() if name != "pads"
    }
    image = half["bias"] - half["none"] / np.sqrt(half["one"] + np.float32(1e-3))
    constants["zero"] = image.reshape(1, 4, 1, 1)
    found = collapse(model_of(nodes, constants, {"x": (1, 4, 8, 9)}, ["z"], kind=TensorProto.FLOAT16))
    (region,) = found.regions
    assert found.operators_after == {"Conv": 1, "Relu": 1} and bias.shape == (4,)
    assert region.error_border is not None and 1e-6 < region.error_border < 8e-3
    assert region.error_interior is not None and region.error_interior < 1e-12
    assert torch.finfo(torch.float16).eps > region.error_border
