"""Collapse parallel and chained linear operators of an ONNX graph into single convolutions, and prove the result."""

from __future__ import annotations

from irepdeploy.onnx_collapse.collapser import collapse
from irepdeploy.onnx_collapse.report import Collapse, Region

__all__ = ["Collapse", "Region", "collapse"]
