"""The comparison of exporters measures the files that an export would write."""

from __future__ import annotations

from irepdeploy.bench.tools.onnx_writer import measure_case
from support.operator_networks import INPUT_SHAPE, operator_network


def test_an_operator_of_a_later_opset_is_measured_there() -> None:
    line = measure_case("writer", operator_network("grid_sample").eval(), INPUT_SHAPE, 13)
    assert "failed" not in line and line["board"] is None
