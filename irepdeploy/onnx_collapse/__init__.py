"""Collapse: the plain network that an ONNX file with parallel or chained linear operators equals, with a proof."""

from __future__ import annotations

from irepdeploy.onnx_collapse.collapser import collapse
from irepdeploy.onnx_collapse.report import Collapse, Region

__all__ = ["Collapse", "Region", "collapse"]
