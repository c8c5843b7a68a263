"""The range report: the numbers, and the first tensor that fp16 cannot hold."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from irepdeploy.errors import InputError
from irepdeploy.export.precision.ranges import range_report, tensor_ranges
from irepdeploy.export.writer.onnx_from_torch import serialized
from support.graph_writer import onnx_model


def chain(*scales: float, batch: int | str = 1) -> onnx.ModelProto:
    """x (batch, 1, 2, 2) -> 1x1 convolutions with one weight each, a ReLU behind each."""
    nodes, last = [], "x"
    for index in range(len(scales)):
        nodes.append(make_node("Conv", [last, f"w{index}"], [f"c{index}"], f"conv{index}"))
        nodes.append(make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        last = f"r{index}"
    weights = {f"w{index}": np.full((1, 1, 1, 1), scale, np.float32) for index, scale in enumerate(scales)}
    return onnx_model(nodes, {"x": (batch, 1, 2, 2)}, {last: (batch, 1, 2, 2)}, weights)


def images(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 2, 2), np.float32)


@pytest.mark.parametrize("batch", [1, 2, "batch"])
def test_the_numbers(batch: int | str) -> None:
    report = range_report(chain(-3, 2**-16, batch=batch), images(1, -5, *[2] * 20))
    found = {node.node: (node.max_weight, node.lost_weights, node.max_activation) for node in report.nodes}
    assert found == {
        "x": (None, None, 5),
        "conv0": (3, 0, 15),
        "relu0": (None, None, 15),
        "conv1": (2**-16, 1, 15 * 2**-16),
        "relu1": (None, None, 15 * 2**-16),
    }
    assert report.ok and report.samples == 22 and (report.max_weight, report.max_activation) == (3, 15)
    assert report.underflowing == ()
    assert range_report(chain(1, 2**-20), images(1)).underflowing == ("conv1", "relu1")


def test_the_first_overflow_is_named() -> None:
    assert range_report(chain(100, 700, 1e-3), images(1)).first_overflow == "activation 7e+04 of conv1 (c1)"
    assert range_report(chain(100, 7e5, 1e-3), images(1e-6)).first_overflow == "weight 7e+05 of conv1 (c1)"
    assert range_report(chain(1), images(7e4)).first_overflow == "activation 7e+04 of x (x)"
    report = range_report(chain(1e30, 1e30, 0), images(1))
    assert not report.ok and report.first_overflow == "weight 1e+30 of conv0 (c0)"
    assert report.max_activation == float("inf")
    # Infinity times zero is NaN.
    assert report.nodes[-2].node == "conv2" and report.nodes[-2].max_activation == float("inf")
    plain = report.to_dict()
    json.dumps(plain, allow_nan=False)
    assert plain["first_overflow"] == report.first_overflow and len(plain["nodes"]) == 7


def test_a_network_against_numpy(vgg6: onnx.ModelProto) -> None:
    model = vgg6
    x = np.random.default_rng(0).standard_normal((5, 1, 16, 16), dtype=np.float32)
    before = serialized(model)
    report = range_report(before, x)
    assert report.ok and len(report.nodes) == len(model.graph.node) + 1
    largest = max(float(np.abs(onnx.numpy_helper.to_array(tensor)).max()) for tensor in model.graph.initializer)
    assert report.max_weight == largest
    low, high = tensor_ranges(model, x)["input"]
    assert (low, high) == (float(x.min()), float(x.max())) and serialized(model) == before


def test_a_normalization_counts_as_what_it_amounts_to() -> None:
    values = {"g": 1.0, "b": 0.0, "m": 3e5, "v": 9e10}
    weights = [onnx.numpy_helper.from_array(np.array([value], np.float32), name) for name, value in values.items()]
    model = chain(1)
    model.graph.initializer.extend(weights)
    model.graph.node.append(make_node("BatchNormalization", ["r0", *values], ["y"], "bn"))
    report = range_report(model, images(1))
    assert report.ok and report.nodes[-1].max_weight == pytest.approx(1.0)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="inputs"):
        range_report(chain(1), {"y": images(1)})
    with pytest.raises(InputError, match="at least one"):
        range_report(chain(1), images())
    with pytest.raises(InputError, match=r"expected shape \?x1x2x2, got 1x2x2x2"):
        range_report(chain(1), np.zeros((1, 2, 2, 2), np.float32))
