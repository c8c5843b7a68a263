from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from irepdeploy.console import progress
from irepdeploy.errors import InputError, ModelError
from irepdeploy.profiling.training_cost import PeakMemory
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.runs.suite import SuiteRequest
from irepdeploy.search.suites import training_cost as suite


def test_each_row_trains_as_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str]] = []
    trained: dict[str, Any] = {}

    def peak(path: Path, batch: int, *, device: str, step: str) -> PeakMemory:
        assert path.exists() and batch == 8 and device == "cpu"
        measured.append((path.stem, step))
        return PeakMemory(10**6 * len(measured))

    def rounds(calls: dict[str, Any], count: int, *_: Any, **__: Any) -> dict[str, list[int]]:
        for call in calls.values():
            call()
        return {name: [1000 * (index + 1)] * count for index, name in enumerate(calls)}

    made = suite._networks

    def networks(*args: Any) -> Any:
        trained.update(made(*args))
        return trained

    monkeypatch.setattr(suite, "peak_memory", peak)
    monkeypatch.setattr(suite, "measure_rounds", rounds)
    monkeypatch.setattr(suite, "_networks", networks)
    with progress(silent=True) as display:
        report = suite.training_cost(SuiteRequest(scale="smoke", out=tmp_path), display)
    assert measured == [
        ("compact6 none plain", "exact"),
        ("compact6 repvgg exact", "exact"),
        ("compact6 repvgg merged", "merged"),
        ("compact6 repvgg frozen", "frozen"),
    ]
    assert [row[:3] + row[4:5] + row[7:] for row in report.rows] == [
        ["compact6", "none", "plain", "1.00", "1", "1.00"],
        ["compact6", "repvgg", "exact", "2.00", "2", "2.00"],
        ["compact6", "repvgg", "merged", "3.00", "3", "3.00"],
        ["compact6", "repvgg", "frozen", "4.00", "4", "4.00"],
    ]
    for (_, variant), net in trained.items():
        steps = {module.step for module in net.modules() if isinstance(module, RepBlock)}
        assert steps == ({"plain": set(), "merged": {"merged"}}.get(variant, {"exact"}))
        assert all(norm.training == (variant != "frozen") for norm in net.modules() if isinstance(norm, NORMS))
    assert (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("only", "rows"),
    [
        (("merged", "acnet"), ["none plain", "acnet merged"]),
        (("compact6", "exact", "ireps", "compiled"), ["none plain", "none plain, compiled", "ireps exact"]),
    ],
)
def test_only_chooses_networks_presets_and_steps(
    only: tuple[str, ...], rows: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def step(net: Any, batch: int, device: str, where: str, *, frozen: bool, compiled: bool) -> Any:
        if compiled and any(isinstance(module, RepBlock) for module in net.modules()):
            raise ModelError("too new", where="compiled")
        return lambda: None

    monkeypatch.setattr(suite, "peak_memory", lambda *args, **options: PeakMemory(1))
    monkeypatch.setattr(suite, "training_step", step)
    monkeypatch.setattr(suite, "require_compiler", lambda device, where: None)
    with progress(silent=True) as display:
        report = suite.training_cost(SuiteRequest(scale="smoke", only=only), display)
    assert [" ".join(row[1:3]) for row in report.rows] == rows
    left_out = [note for note in report.notes if "too new" in note]
    assert len(left_out) == ("compiled" in only)


def test_without_a_compiler_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(suite, "peak_memory", lambda *args, **options: PeakMemory(None))
    monkeypatch.setattr(suite, "training_step", lambda *args, **options: lambda: None)
    with progress(silent=True) as display:
        report = suite.training_cost(SuiteRequest(scale="smoke", only=("compiled", "merged")), display)
    assert [row[2] for row in report.rows] == ["plain", "merged"]
    assert "Left out: compiled: torch.compile needs a C++ compiler: g++ not found" in report.notes[-1]


def test_an_unknown_network_is_refused() -> None:
    with progress(silent=True) as display, pytest.raises(InputError, match="no network, preset or step 'vgg'"):
        suite.training_cost(SuiteRequest(only=("vgg",)), display)
