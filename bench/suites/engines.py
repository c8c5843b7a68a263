"""TensorRT engines of the graphs of a suite, built and certified by the export stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irepdeploy.export.pipeline import export_model

from ..subject import ENGINE, Subject
from .condition import ENGINE_RUNNER
from .graphs import Graph

__all__ = ["built_engines"]


def built_engines(
    graphs: Sequence[tuple[Graph, Mapping[str, Any]]], root: Path, *, seed: int, tf32: bool
) -> list[Subject]:
    """Build an fp32 engine of each graph."""
    subjects = []
    for graph, facts in graphs:
        folder = root / _name(graph.label, tf32)
        export_model(graph.module, folder, target="trt", precision="fp32", seed=seed, tf32=tf32)
        engine = next(folder.glob("*.engine"))
        subjects.append(Subject(graph.label, ENGINE, str(engine), ENGINE_RUNNER, facts=facts))
    return subjects


def _name(label: str, tf32: bool) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() + ("-tf32" if tf32 else "")
