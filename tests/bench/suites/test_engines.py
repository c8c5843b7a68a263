from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.suites import engines as module
from irepdeploy.bench.suites.engines import built_engines
from irepdeploy.bench.suites.graphs import Graph
from irepdeploy.bench.suites.published import TABLE2
from irepdeploy.bench.suites.variants import FUSED, Variant
from irepdeploy.runs.suite import SuiteRequest
from support.networks import random_network


def test_each_graph_gets_an_engine_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def export(net: object, out: Path, **options: Any) -> None:
        out.mkdir()
        (Path(out) / "model-fp32.engine").write_bytes(b"engine")
        asked.append(options)

    monkeypatch.setattr(module, "export_model", export)
    rows = [row for row in TABLE2 if row.label in ("RepVGG", "RepNAS (VGG)")]
    graphs = [Graph(row.net, "", random_network(), 1, 1, [Variant(row, FUSED)]) for row in rows]
    subjects = built_engines([(graph, graph.facts()) for graph in graphs], tmp_path, seed=3, tf32=False)
    assert [subject.key for subject in subjects] == ["RepVGG, fused (trt)", "RepNAS (VGG), fused (trt)"]
    assert [Path(subject.target).parent.name for subject in subjects] == ["repvgg-fused", "repnas-vgg-fused"]
    assert all(Path(subject.target).is_file() for subject in subjects)
    assert subjects[0].facts["names"] == ["RepVGG, fused"]
    assert asked[0] == {"target": "trt", "precision": "fp32", "seed": 3, "tf32": False}
    assert all(tmp_path in Path(subject.target).parents for subject in subjects)
    # TF32 is built into an engine, so engines with TF32 are different ones.
    with_tf32 = built_engines([(graph, graph.facts()) for graph in graphs], tmp_path, seed=3, tf32=True)
    assert [Path(subject.target).parent.name for subject in with_tf32] == ["repvgg-fused-tf32", "repnas-vgg-fused-tf32"]
    assert [options["tf32"] for options in asked] == [False, False, True, True]


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_of_a_suite_stays_only_where_one_was_asked_for(kept: bool, tmp_path: Path) -> None:
    with SuiteRequest(out=tmp_path / "r" if kept else None).folder("engines") as folder:
        assert folder.is_dir() and (folder == tmp_path / "r" / "engines") == kept
    assert folder.exists() == kept
