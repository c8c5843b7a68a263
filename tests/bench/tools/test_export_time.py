"""The benchmark of an export, in its smallest form."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from irepdeploy.bench.tools import export_time, harness
from irepdeploy.bench.tools.export_time import OURS, TORCHSCRIPT, Subject, measure_exports, prepare, subjects_of
from irepdeploy.errors import RunError


@pytest.mark.slow
def test_whole_processes_are_measured(tmp_path: Path) -> None:
    prepare(tmp_path, network="vgg6", small="vgg6")
    subjects = subjects_of(tmp_path)
    measured = {name: subjects[name] for name in (OURS, TORCHSCRIPT)}
    measure_exports(measured, rounds=1, warmup=0, together=False)
    for subject in measured.values():
        assert len(subject.samples_ns) == len(subject.peaks) == 1 and subject.samples_ns[0] > 0
        assert subject.peaks[0] > subject.weights > 0 and subject.together is None
    assert measured[OURS].form() == (13, 8)
    # No opset was requested, and this torch writes a later one.
    assert (measured[TORCHSCRIPT].form() or (0, 0))[0] > 13


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    for name in ("train", "fused", "small"):
        (tmp_path / f"{name}.pt").touch()
    (tmp_path / "without").mkdir()
    (tmp_path / "without/onnxscript.py").write_text("raise ImportError")
    without = subjects_of(tmp_path, str(tmp_path / "without"))
    assert without[export_time.DYNAMO].missing == "not measured: onnxscript is not installed"
    (tmp_path / "with").mkdir()
    (tmp_path / "with/onnxscript.py").touch()
    assert subjects_of(tmp_path, str(tmp_path / "with"))[export_time.DYNAMO].missing is None


def test_the_record_and_the_tables_hold_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fixed(subjects: dict[str, Subject], rounds: int) -> None:
        for number, subject in enumerate(subjects.values(), start=1):
            subject.samples_ns, subject.peaks, subject.together = [number * 10**9] * rounds, [number * 10**9], 7

    def small(folder: Path, path: str | None) -> dict[str, Subject]:
        names = ("_TORCH", "OURS", "DYNAMO", "TORCHSCRIPT", "SMALL", "BRANCHES")
        found = {getattr(export_time, name): Subject([], weights=10**8) for name in names}
        found[export_time.DYNAMO].missing = "not measured: onnxscript is not installed"
        return found

    monkeypatch.setattr(export_time, "measure_exports", fixed)
    monkeypatch.setattr(export_time, "subjects_of", small)
    monkeypatch.setattr(export_time.subprocess, "run", lambda *args, **kwargs: None)
    monkeypatch.setattr(harness, "system_block", dict)
    export_time.main([str(tmp_path / "r.jsonl"), "--rounds", "6"])
    line = json.loads((tmp_path / "r.jsonl").read_text())
    assert line["samples_ns"][OURS] == [2 * 10**9] * 6 and line["peak_bytes_with_children"][OURS] == 7
    assert list(line["not_measured"]) == [export_time.DYNAMO]
    shown = capsys.readouterr().out
    assert "not measured: onnxscript is not installed" in shown
    row = next(text for text in shown.splitlines() if text.startswith(f"{OURS} over {TORCHSCRIPT}"))
    assert row.split()[-5:] == ["0.50", "0.50", "to", "0.50", "1.0"]
    row = next(text for text in shown.splitlines() if text.startswith(f"{OURS}, MB"))
    assert row.split()[-3:] == ["1000", "-", "700"]


def test_a_command_that_fails_is_named() -> None:
    failing = Subject([sys.executable, "-c", "raise SystemExit('no such network')"])
    with pytest.raises(RunError, match="no such network"):
        measure_exports({"ours": failing}, rounds=1, warmup=0, together=False)


def test_memory_of_children_is_counted() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytes(200_000_000); import time'])"
    alone, parent = Subject([sys.executable, "-c", "pass"]), Subject([sys.executable, "-c", code])
    measure_exports({"alone": alone, "parent": parent}, rounds=1, warmup=0, together=False)
    assert parent.peaks[0] > 200_000_000
