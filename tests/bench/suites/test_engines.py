from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.suites import engines as module
from irepdeploy.bench.suites.engines import built_engines
from irepdeploy.bench.suites.graphs import Graph
from irepdeploy.bench.suites.published import TABLE2
from irepdeploy.bench.suites.variants import FUSED, Variant
from irepdeploy.suite import SuiteRequest
from irepdeploy.testing.networks import random_network


@pytest.mark.parametrize("kept", [True, False])
def test_each_graph_gets_an_engine_in_a_folder_of_its_own(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def export(net: object, out: Path, **options: Any) -> None:
        (Path(out) / "model-fp32.engine").write_bytes(b"engine")
        asked.append(options)

    monkeypatch.setattr(module, "export_model", export)
    rows = [row for row in TABLE2 if row.label in ("RepVGG", "RepNAS (VGG)")]
    graphs = [Graph(row.net, "", random_network(), 1, 1, [Variant(row, FUSED)]) for row in rows]
    subjects = built_engines(
        [(graph, graph.facts()) for graph in graphs], SuiteRequest(seed=3, out=tmp_path if kept else None)
    )
    assert [subject.key for subject in subjects] == ["RepVGG, fused (trt)", "RepNAS (VGG), fused (trt)"]
    assert [Path(subject.target).parent.name for subject in subjects] == ["repvgg-fused", "repnas-vgg-fused"]
    assert all(Path(subject.target).is_file() for subject in subjects)
    assert subjects[0].facts["names"] == ["RepVGG, fused"]
    assert all(options == {"target": "trt", "precision": "fp32", "seed": 3} for options in asked)
    assert (tmp_path in Path(subjects[0].target).parents) == kept
