"""Collapse: the plain network that an ONNX file with parallel or chained linear operators equals, with a proof."""

from __future__ import annotations

from irepdeploy.reparam.collapse.collapser import collapse
from irepdeploy.reparam.collapse.report import Collapse, Region

__all__ = ["Collapse", "Region", "collapse"]
