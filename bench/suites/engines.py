"""TensorRT engines of a suite's graphs, built by the export stage and certified as any other."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from irepdeploy.export.pipeline import export_model
from irepdeploy.files import output_folder
from irepdeploy.suite import SuiteRequest

from ..subject import ENGINE, Subject
from .condition import ENGINE_RUNNER
from .graphs import Graph

__all__ = ["built_engines"]


def built_engines(graphs: Sequence[tuple[Graph, Mapping[str, Any]]], request: SuiteRequest) -> list[Subject]:
    """An fp32 engine of each graph, in ``engines/`` of the suite's folder, or in a temporary one.

    Args:
        graphs: each with the facts that its record will hold.

    Raises:
        MissingError: TensorRT is not there.
        CheckFailed: an engine's outputs are not the network's.
    """
    root = request.out or Path(tempfile.mkdtemp(prefix="irepdeploy-engines-"))
    subjects = []
    for graph, facts in graphs:
        folder = output_folder(root / "engines" / re.sub(r"[^A-Za-z0-9]+", "-", graph.label).strip("-").lower())
        export_model(graph.module, folder, target="trt", precision="fp32", seed=request.seed)
        engine = next(folder.glob("*.engine"))
        subjects.append(Subject(graph.label, ENGINE, str(engine), ENGINE_RUNNER, facts=facts))
    return subjects
