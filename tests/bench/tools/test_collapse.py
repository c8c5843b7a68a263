"""The table of the collapse for each tool, in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from irepdeploy.bench.tools import collapse
from irepdeploy.bench.tools.collapse import TOOLS, measure_subject, published_subjects


def test_a_network_is_counted_and_timed() -> None:
    (subject,) = published_subjects(["acnet"], (3, 24, 24))
    measure_subject(subject, seconds=0.0)
    assert subject.convs["as exported"] == 18 and subject.convs["irepdeploy"] == subject.deploy_convs == 6
    # The table exists to show what other tools leave.
    assert all(subject.convs[name] in (18, "not installed") for name in TOOLS)
    assert subject.convs["onnxruntime"] == subject.convs["onnxsim"] == 18
    assert subject.error < 1e-5 and subject.seconds > 0
    assert len(subject.samples_ns["given"]) == len(subject.samples_ns["collapsed"]) >= 64


def test_a_tool_that_fails_or_is_missing_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(subject: object) -> int:
        raise ModuleNotFoundError("onnxslim")

    def failing(subject: object) -> int:
        print("noise")
        raise KeyError("of its own")

    monkeypatch.setattr(collapse, "TOOLS", {"a": missing, "b": failing, "c": lambda subject: 3})
    (subject,) = published_subjects(["repvgg"], (3, 24, 24))
    measure_subject(subject, seconds=0.0)
    assert [subject.convs[name] for name in "abc"] == ["not installed", "fails", 3]
    captured = capsys.readouterr()
    assert "noise" not in captured.out and "of its own" in captured.err


def test_the_record_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collapse, "TOOLS", {})
    collapse.main([str(tmp_path / "r.jsonl"), "--only", "repvgg", "--seconds", "0"])
    line = json.loads((tmp_path / "r.jsonl").read_text())
    network = line["networks"]["repvgg"]
    assert network["convolutions"] == {"as exported": 12, "irepdeploy": 6} and network["deploy_form"] == 6
    assert len(network["samples_ns"]["given"]) >= 64 and line["versions"]["onnxruntime"] and line["system"]
    out = capsys.readouterr().out
    assert "repvgg" in out and "deploy form" in out
