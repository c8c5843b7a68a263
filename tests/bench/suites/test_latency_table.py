"""Tables made from measurements; the measurements are faked, the networks are real."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from irepdeploy.bench.request import BenchRequest
from irepdeploy.bench.subject import Subject
from irepdeploy.bench.suites import graphs
from irepdeploy.bench.suites import latency_table as module
from irepdeploy.bench.suites.fig1 import _front as front
from irepdeploy.bench.suites.fused_vs_branches import fused_vs_branches
from irepdeploy.bench.suites.latency_table import LatencyTable, latency_table
from irepdeploy.bench.suites.published import TABLE2
from irepdeploy.bench.suites.variants import Variant, variants
from irepdeploy.cli import main
from irepdeploy.console import progress
from irepdeploy.errors import InputError, MissingError
from irepdeploy.export.structure import network_digest
from irepdeploy.network.checkpoint import save
from irepdeploy.runs.record import Record
from irepdeploy.runs.result import TrainingResult
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from support.networks import random_network
from support.records import make_record

VGGS = [row for row in TABLE2 if row.net in ("vgg16", "repvgg_vgg16", "irep_vgg16")]
TABLE = LatencyTable(
    name="vggs",
    title="VGGs",
    variants=variants(VGGS),
    reference="IrepVGG-16, fused",
    smoke=("IrepVGG-16, fused",),
    notes=("A note.",),
)
# Milliseconds by (label, runner).
TIMES = {("VGG, BN kept", "torch"): 6, ("VGG, BN folded", "torch"): 4, ("VGG, BN folded", "ort-cpu"): 2}


class FakeBench:
    """Gives a record of each subject, and keeps how it was called."""

    def __init__(self, times: Mapping[tuple[str, str], float]) -> None:
        self.times = times
        self.calls: list[tuple[list[Subject], BenchRequest]] = []

    def __call__(self, subjects: Sequence[Subject], request: BenchRequest, on_round: Any) -> list[Record]:
        self.calls.append((list(subjects), request))
        for share in (0.3, 0.301, 1.0):
            on_round(share)
        return [self.record(subject, request) for subject in subjects]

    def record(self, subject: Subject, request: BenchRequest) -> Record:
        ms = self.times.get((subject.label, subject.runner), 8)
        return make_record(
            subject.label,
            suite=request.suite,
            source=subject.target,
            runner={"runner": subject.runner},
            samples_ns=[round(ms * 1e6)] * 64,
            warmup={"runs": 1, "steady": subject.runner == "torch", "cov": 0.0},
            conditions={"tf32": "on" if request.tf32 else "off"},
            facts=dict(subject.facts),
        )


# Building and exporting take seconds, and the networks are always the same.
BUILT: dict[tuple[str, str], nn.Module] = {}
DIGESTS: dict[str, str] = {}
build = Variant.build


def built_once(variant: Variant, seed: int) -> nn.Module:
    key = variant.row.net, variant.state
    if key not in BUILT:
        BUILT[key] = build(variant, seed)
    return BUILT[key]


def digest_once(net: nn.Module) -> str:
    # Equal parameter counts per layer: enough to tell the forms of one VGG-16 from another network.
    key = str([tuple(parameter.shape) for parameter in net.parameters()])
    if key not in DIGESTS:
        DIGESTS[key] = network_digest(net)
    return DIGESTS[key]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    bench = FakeBench(TIMES)
    monkeypatch.setattr(module, "bench_models", bench)
    monkeypatch.setattr(Variant, "build", built_once)
    monkeypatch.setattr(graphs, "network_digest", digest_once)
    return bench


def run(request: SuiteRequest, table: LatencyTable = TABLE) -> SuiteReport:
    with progress(silent=True) as display:
        return latency_table(table, request, display)


def lines(report: SuiteReport) -> dict[str, list[str]]:
    return {row[0]: list(row[1:]) for row in report.rows}


def test_one_graph_is_measured_once_and_listed_under_all_its_names(fake: FakeBench) -> None:
    report = run(SuiteRequest())
    ((subjects, request),) = fake.calls
    assert [subject.key for subject in subjects] == [
        "VGG, BN kept (torch)",
        "VGG, BN folded (torch)",
        "VGG, BN folded (ort-cpu)",
    ]
    assert subjects[1].facts["names"] == ["VGG, BN folded", "RepVGG, fused", "IrepVGG-16, fused"]
    assert [row["top1"] for row in subjects[1].facts["rows"]] == [94.12, 94.62, 95.65]
    assert [row["paper_ms"] for row in subjects[1].facts["rows"]] == [None, 1.76, 1.76]
    assert {subject.facts["reference"] for subject in subjects} == {"IrepVGG-16, fused"}
    found = lines(report)
    assert found["RepVGG, fused"][1:] == ["14.72", "94.62", "1.76", "1.00", "4.000", "1", "2.000 u", "1"]
    assert found["IrepVGG-16, fused"][5:] == found["VGG, BN folded"][5:]
    mark = found["RepVGG, fused"][0]
    assert {found[label][0] for label in found} == {mark, f"{mark}+BN"}
    assert f"{mark}: one graph, measured once: VGG, BN folded; RepVGG, fused; IrepVGG-16, fused." in report.notes
    assert request.suite == "vggs" and request.min_samples == 64 and request.threads == 1

    # If the exporter folds, "BN kept" is the folded graph.
    assert found["VGG, BN kept"][5] == "6.000" and found["VGG, BN kept"][6].startswith("1.50 [")
    assert found["VGG, BN kept"][7:] == ["2.000 u", "1"]
    assert subjects[2].facts["names"] == [*subjects[1].facts["names"], "VGG, BN kept"]
    assert subjects[2].facts["rows"][-1]["paper_ms"] == 2.14
    # The paper's ratio is relative to the paper's reference.
    assert found["VGG, BN kept"][3:5] == ["2.14", f"{2.14 / 1.76:.2f}"]
    assert found["VGG, BN folded"][3:5] == ["-", "-"]
    assert "A note." in report.notes
    assert any(note.startswith("IrepVGG-16: with every candidate branch") for note in report.notes)
    json.dumps(report.figures, allow_nan=False)


def test_only_keeps_the_reference(fake: FakeBench) -> None:
    assert list(lines(run(SuiteRequest(only=("RepVGG",))))) == ["RepVGG, fused", "IrepVGG-16, fused"]
    assert list(lines(run(SuiteRequest(scale="smoke")))) == ["IrepVGG-16, fused"]
    with pytest.raises(InputError, match="did you mean RepVGG"):
        run(SuiteRequest(only=("RepVG",)))


def test_models_of_the_users_stand_beside(fake: FakeBench, tmp_path: Path) -> None:
    save(random_network("vgg16"), tmp_path / "best.pt")
    times = {"epochs": 1, "seconds_per_epoch": 1.0, "seconds": 1.0, "device": "cpu", "devices": 1}
    result = TrainingResult(branches=0, val_accuracy=0.5, test_accuracy=0.9321, best_epoch=1, **times)
    result.write(tmp_path / "result.json")
    report = run(SuiteRequest(models=[f"mine={tmp_path / 'best.pt'}", "other=vgg16"]))
    found = lines(report)
    assert found["mine"] == ["-", "-", "93.21", "-", "-", "8.000", "2.00 [2.00, 2.00]", "8.000 u", "4.00 [4.00, 4.00]"]
    assert found["other"][2] == "-"
    mine = next(row for row in report.figures["rows"] if row["name"] == "mine")
    assert mine["top1_source"] == "its training's test set (result.json)"


@pytest.mark.parametrize("text", ["", "[]", '{"test_accuracy": null}'])
def test_a_result_that_is_none_gives_no_accuracy(fake: FakeBench, tmp_path: Path, text: str) -> None:
    save(random_network("vgg16"), tmp_path / "best.pt")
    (tmp_path / "result.json").write_text(text)
    assert lines(run(SuiteRequest(models=[f"mine={tmp_path / 'best.pt'}"])))["mine"][2] == "-"


def test_a_model_that_no_runner_takes_is_refused_before_the_networks_are_built(
    fake: FakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(module, "distinct_graphs", build)
    (tmp_path / "a.onnx").touch()
    with pytest.raises(InputError, match="torch cannot run it"):
        run(SuiteRequest(models=[str(tmp_path / "a.onnx")], runners=["torch"]))


def test_the_papers_conditions_run_with_tf32_off_and_on(fake: FakeBench) -> None:
    report = run(SuiteRequest("paper", device="cuda", runners=["torch"]))
    assert [request.tf32 for _, request in fake.calls] == [False, True]
    assert all(request.device == "cuda" and request.min_samples == 662 for _, request in fake.calls)
    assert list(report.columns)[6:] == ["torch, TF32 off ms", "x", "torch, TF32 on ms", "x"]
    assert set(report.figures["rows"][0]["measured"]) == {"torch, TF32 off", "torch, TF32 on"}


def test_engines_where_tensorrt_is_missing_are_an_error_at_once(
    fake: FakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(flavour: str) -> None:
        raise MissingError(f"{flavour} is not installed")

    monkeypatch.setattr(module, "load_tensorrt", load)
    monkeypatch.setattr(module, "distinct_graphs", None)
    with pytest.raises(MissingError, match="tensorrt"):
        run(SuiteRequest(runners=["trt"]))


def test_engines_are_built_for_each_state_of_tf32(
    fake: FakeBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[tuple[Path, bool]] = []

    def engines(fitting: Sequence[Any], folder: Path, *, seed: int, tf32: bool) -> list[Subject]:
        assert folder.is_dir()
        built.append((folder, tf32))
        return [Subject(graph.label, "engine", "x.engine", "trt", facts=facts) for graph, facts in fitting]

    monkeypatch.setattr(module, "load_tensorrt", lambda flavour: None)
    monkeypatch.setattr(module, "built_engines", engines)
    report = run(SuiteRequest("paper", device="cuda", runners=["trt"], out=tmp_path))
    assert built == [(tmp_path / "engines", False), (tmp_path / "engines", True)]
    assert set(report.figures["rows"][0]["measured"]) == {"trt, TF32 off", "trt, TF32 on"}


def test_fused_against_branches_measures_one_network_four_times(fake: FakeBench) -> None:
    with progress(silent=True) as display:
        report = fused_vs_branches(SuiteRequest(only=["VGG-16"]), display)
    assert [row[0] for row in report.rows] == [
        "VGG-16, BN kept",
        "VGG-16, BN folded",
        "Irep VGG-16, branches standing",
        "Irep VGG-16, fused",
    ]
    ((subjects, _),) = fake.calls
    assert [subject.label for subject in subjects if subject.runner == "ort-cpu"] == [
        "VGG-16, BN folded",
        "Irep VGG-16, branches standing",
    ]


@pytest.mark.slow
def test_every_network_of_a_smoke_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--suite", "table2", "--scale", "smoke"]) == 0
    assert "DARTS (second), BN folded" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [{"only": ["VGG-17"]}, {"models": ["vgg16"]}])
def test_what_fused_against_branches_does_not_take(fake: FakeBench, asked: dict[str, Any]) -> None:
    with progress(silent=True) as display, pytest.raises(InputError):
        fused_vs_branches(SuiteRequest(**asked), display)


def test_the_front_of_figure_1() -> None:
    points = (("slow, good", 9.0, 80.0), ("slow, bad", 9.0, 70.0), ("fast", 1.0, 60.0), ("unknown", 0.5, None))
    rows = [{"name": name, "top1": top1, "measured": {"torch": {"median_ms": ms}}} for name, ms, top1 in points]
    assert front(rows, "torch") == ["fast", "slow, good"]
    assert front(rows, "ort-cpu") == []
