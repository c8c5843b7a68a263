"""A board's answer as records, rows and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.errors import CheckFailed, MissingError, ModelError, RunError
from irepdeploy.jetson.models import Model, Variant
from irepdeploy.jetson.outcome import COLUMNS, cells, outcome_of
from irepdeploy.jetson.state import missing_rows, rows_of, unusable
from irepdeploy.runs.record import append, read

MODEL = Model("net", "net.onnx", b"content", "fp32")
VARIANTS = [Variant("net fp32", MODEL, "fp32"), Variant("net fp16", MODEL, "fp16")]
GATE = {"ok": True, "samples": 8, "max_rel_error": 1e-6, "tolerance": {}, "reason": "fine", "outputs": []}


def entry(label: str = "net fp32", **changed: Any) -> dict[str, Any]:
    return {
        "label": label,
        "ok": True,
        "gate": GATE,
        "runner": {"runner": "trt", "provider": "TensorRT", "device": "cuda", "precision": "fp32"},
        "batch": 1,
        "input_shape": [1, 3, 32, 32],
        "samples_ns": [2_000_000 + 1000 * i for i in range(70)],
        "device_samples_ns": [1_900_000 + 1000 * i for i in range(70)],
        "warmup": {"runs": 20, "steady": True, "cov": 0.01},
        "engine": {"sha256": "e" * 64, "size_bytes": 5, "seconds": 60.5, "files": ["model0.engine"]},
        "power": {"rails_mw": {"GPU": 5000.0, "CPU": 900.0}, "module_mw": 5900.0, "energy_mj_per_inference": 11.8},
        "trtexec": None,
        **changed,
    }


def answer(*models: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "job": "j1",
        "created": "2026-11-23T18:00:00+00:00",
        "board": {"board": "Jetson-AGX", "l4t": "35.4.1", "power_mode": {"id": 7, "name": "MODE_15W_DESKTOP"}},
        "system": {"os": "Linux", "board": {"temperatures_c": {"GPU": 30.5}}},
        "system_after": {"throttled": None},
        "conditions": {"seed": 0, "interleaved_with": ["net fp32"], "power_mode": {"id": 0, "name": "MAXN"}},
        "protocol_version": 1,
        "argv": [],
        "switched": ["power mode MAXN"],
        "restored": ["power mode MODE_15W_DESKTOP"],
        "models": list(models),
        **changed,
    }


def test_a_figure_becomes_a_record_that_can_be_read_again(tmp_path: Path) -> None:
    groups = {"net fp32": [{"name": "random"}]}
    outcome = outcome_of("me@xavier", answer(entry()), VARIANTS, groups)
    [record] = outcome.records
    append(tmp_path / "records.jsonl", record)
    assert [asdict(one) for one in read(tmp_path / "records.jsonl")] == [asdict(record)]
    assert (record.model, record.precision, record.artefact_sha256) == ("net fp32", "fp32", MODEL.sha256)
    assert record.system["board"] == "Jetson-AGX" and record.system["power_mode"] == "MAXN"
    assert record.system["platform"] == {"l4t": "35.4.1"}
    assert record.system["state"] == {"temperatures_c": {"GPU": 30.5}}
    assert record.power == {
        "mean_mw": {"GPU": 5000.0, "CPU": 900.0}, "module_mw": 5900.0, "energy_mj_per_inference": 11.8
    }  # fmt: skip
    assert record.conditions["host"] == "xavier"
    assert record.conditions["gate"]["ok"] is True and record.conditions["gate"]["inputs"] == [{"name": "random"}]
    assert record.runner["engine"] == {"sha256": "e" * 64, "size_bytes": 5, "seconds": 60.5}
    assert len(record.device_samples_ns) == len(record.samples_ns) == 70
    assert outcome.title == "me@xavier, Jetson-AGX, MAXN, input 1x3x32x32"
    assert outcome.notes == ["set there: power mode MAXN", "restored: power mode MODE_15W_DESKTOP"]
    [row] = outcome.rows
    assert dict(zip(COLUMNS, cells(row), strict=True)) == {
        "model": "net fp32", "precision": "fp32", "runner": "trt", "median ms": "2.034", "p90 ms": "2.062",
        "device ms": "1.934", "spread": "1.0%", "error": "1.0e-06", "module mW": "5900", "mJ each": "11.80",
    }  # fmt: skip


def test_a_plain_machine_and_a_plain_model_have_less() -> None:
    plain = entry(power={}, engine=None, device_samples_ns=[], gate=None, runner={"runner": "ort"})
    value = answer(plain, board={"jetson": False, "board": None, "power_mode": None}, switched=[], restored=[])
    value["conditions"] = {"power_mode": None}
    outcome = outcome_of("pi", value, VARIANTS, {})
    [record] = outcome.records
    assert record.runner == {"runner": "ort-cpu"} and record.source == "onnx"
    assert "board" not in record.system and "power_mode" not in record.system
    assert record.conditions["gate"] == {"ok": None, "reason": "not asked for"}
    assert cells(outcome.rows[0])[-3:] == ["-", "-", "-"]
    assert outcome.title == "pi, input 1x3x32x32"


def test_trtexec_stands_beside_ours() -> None:
    times = {"version": "8.5.2", "arguments": ["--noTF32"], "latency_ns": [3_000_000] * 64, "compute_ns": [1] * 64}
    outcome = outcome_of("x", answer(entry(trtexec=times)), VARIANTS, {})
    ours, theirs = outcome.records
    assert (ours.runner["runner"], theirs.runner["runner"]) == ("trt", "trtexec")
    assert theirs.samples_ns == [3_000_000] * 64 and theirs.power == {}
    assert theirs.conditions["arguments"] == ["--noTF32"] and theirs.conditions["interleaved_with"] == []
    assert "arguments" not in ours.conditions
    assert [row["runner"] for row in outcome.rows] == ["trt", "trtexec"]
    assert outcome.rows[1]["median_ms"] == 3.0


def test_engines_alone_have_a_row_and_no_record() -> None:
    built = entry(samples_ns=[], device_samples_ns=[], power={}, warmup={}, runner={})
    outcome = outcome_of("x", answer(built), VARIANTS, {})
    assert outcome.records == [] and outcome.files == {"net fp32": ["model0.engine"]}
    assert cells(outcome.rows[0])[:8] == ["net fp32", "fp32", "trt", "-", "-", "-", "-", "1.0e-06"]


def test_a_model_that_failed_stops_no_other() -> None:
    refused = {
        "label": "net fp16", "precision": "fp16", "ok": False, "gate": None,
        "error": {"code": 2, "kind": "ModelError", "what": "no layer for Foo", "where": "Foo_1", "hint": "export"},
    }  # fmt: skip
    outcome = outcome_of("x", answer(entry(), refused), VARIANTS, {})
    assert len(outcome.records) == 1
    [error] = outcome.errors
    assert type(error) is ModelError
    assert error.line == "x, net fp16: Foo_1: no layer for Foo (export)"


def test_a_failed_gate_is_a_verdict() -> None:
    gate = {**GATE, "ok": False, "reason": "output 'logits' differs by 0.5", "max_rel_error": "nan"}
    error = {"code": 1, "kind": "CheckFailed", "what": "output 'logits' differs by 0.5"}
    outcome = outcome_of("x", answer({**entry(), "ok": False, "gate": gate, "error": error}), VARIANTS, {})
    [failure] = outcome.errors
    assert type(failure) is CheckFailed and "differs by 0.5" in failure.line
    assert outcome.records == [] and outcome.rows == []


def test_a_board_that_stays_switched_and_throttling_are_reported() -> None:
    changes: dict[str, Any] = {"restored": ["FAILED: power mode 7: nvpmodel ended with 1", "clocks as they were"]}
    changes["system_after"] = {"throttled": "the GPU fell"}
    outcome = outcome_of("x", answer(entry(), **changes), VARIANTS, {})
    assert "THROTTLED: the GPU fell" in outcome.notes
    assert len(outcome.records) == 1
    [error] = outcome.errors
    assert type(error) is RunError and error.hint == "irepdeploy jetson restore x"
    assert error.what == "not restored: FAILED: power mode 7: nvpmodel ended with 1"


def test_what_was_sampled_is_kept_as_one_list_a_quantity() -> None:
    samples = [
        {"time_s": 0.0, "gpu_hz": 5, "temperatures_c": {"GPU": 30.0}, "module_mw": None},
        {"time_s": 1.0, "gpu_hz": 6, "temperatures_c": {}, "module_mw": None},
    ]
    after = {"throttled": None, "rails_mw": {}, "clocks": {"gpu": None}, "samples": samples}
    [record] = outcome_of("x", answer(entry(), system_after=after), VARIANTS, {}).records
    assert record.system_after == {
        "samples": {"time_s": [0.0, 1.0], "gpu_hz": [5, 6], "temperatures_c GPU": [30.0, None]}
    }
    nothing = {"samples": [{"time_s": 0.0, "gpu_hz": None}]}
    assert outcome_of("x", answer(entry(), system_after=nothing), VARIANTS, {}).records[0].system_after == {}


def test_a_kind_that_is_unknown_is_a_failed_run() -> None:
    failed = {"label": "net fp32", "ok": False, "gate": None, "error": {"code": 70, "kind": "", "what": "KeyError"}}
    [error] = outcome_of("x", answer(failed), VARIANTS, {}).errors
    assert type(error) is RunError and "KeyError" in error.line


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.pop("models"),
        lambda value: value["models"][0].update(label="another"),
        lambda value: value["models"][0].update(samples_ns=["x"]),
        lambda value: value["models"][0].pop("batch"),
        lambda value: value.update(models=[3]),
        lambda value: value.pop("protocol_version"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failed_run(spoil: Callable[[dict[str, Any]], Any]) -> None:
    value = answer(entry())
    spoil(value)
    with pytest.raises(RunError, match="x: cannot understand the agent's answer"):
        outcome_of("x", value, VARIANTS, {})


JETSON = {
    "jetson": True, "board": "Jetson-AGX", "l4t": "35.4.1", "jetpack": "5.1.2", "os": "Ubuntu 20.04.6 LTS",
    "kernel": "5.10", "machine": "aarch64", "python": "3.8.10", "numpy": "1.17.4", "onnxruntime": None,
    "tensorrt": "8.5.2.2", "tensorrt_problem": None, "trtexec": "/usr/src/tensorrt/bin/trtexec",
    "cuda": {"cuda_runtime": "11.4", "name": "Xavier", "compute_capability": "7.2"}, "dla_cores": 2,
    "power_mode": {"id": 7, "name": "MODE_15W_DESKTOP"}, "can_switch": False, "runners": ["trt"],
    "clocks": {
        "gpu": {"current_hz": 114750000, "min_hz": 114750000, "max_hz": 675750000}, "emc": None,
        "cpu": [{"online": True, "governor": "schedutil", "current_hz": 1190400000}, {"online": False}],
    },
    "temperatures_c": {"GPU": 30.5}, "rails_mw": {"GPU": 463}, "free_bytes": 1 << 33, "memory_bytes": 1 << 35,
    "load_average": [0.1, 0.2, 0.3], "unrestored": {"since": "2026-11-23T10:00:00", "steps": []},
    "missing": [{"what": "sudo asks\nfor a password", "for": "clocks", "hint": None}],
}  # fmt: skip


def test_a_board_is_shown() -> None:
    shown = dict(map(tuple, rows_of(JETSON)))
    assert shown["system"] == "Ubuntu 20.04.6 LTS, 5.10, aarch64"
    assert shown["power mode"] == "MODE_15W_DESKTOP, 7"
    assert shown["clocks"] == "GPU 115 of 676 MHz, CPU 1 of 2 cores on at 1190 MHz (schedutil)"
    assert (shown["temperatures"], shown["power"], shown["load"]) == ("GPU 30.5 C", "GPU 463 mW", "0.10 0.20 0.30")
    assert (shown["free disk"], shown["memory"], shown["ONNX Runtime"]) == ("8.0 GiB", "32.0 GiB", "not installed")
    assert shown["NOT RESTORED"] == "since 2026-11-23T10:00:00: irepdeploy jetson restore HOST"
    assert (shown["can run now"], shown["can switch clocks and mode"]) == ("trt", "no")
    assert missing_rows(JETSON) == [["sudo asks for a password", "clocks", "-"]]
    assert unusable("x", JETSON) is None


def test_a_board_of_which_nothing_is_known_is_shown_too() -> None:
    assert {text for _, text in rows_of({})} == {"unknown", "nothing"}
    assert "L4T" not in dict(map(tuple, rows_of({"jetson": False})))
    error = unusable("x", {"runners": [], "missing": [{"what": "no numpy", "for": "ort-cpu", "hint": "apt"}]})
    assert isinstance(error, MissingError)
    assert error.line == "x: nothing can be measured on it: no numpy (apt)"


def test_records_of_before_the_rooms_are_read() -> None:
    """Written by `jetson bench` of version 0.1 on a board of files; only argv and a path were shortened."""
    ours, theirs, plain = read(Path(__file__).parent / "assets" / "records_0.1.jsonl")
    assert [record.runner["runner"] for record in (ours, theirs, plain)] == ["trt", "trtexec", "ort-cpu"]
    assert ours.system["board"] == "Jetson-AGX" and ours.system["power_mode"] == "MAXN"
    assert len(ours.power["mean_mw"]) == 6 and ours.power["energy_mj_per_inference"] > 0
    assert ours.runner["engine"]["timing_cache"] == "begun" and ours.conditions["clocks"] == "held"
    assert theirs.samples_ns == [2_000_000] * 3 and len(plain.samples_ns) >= 64
    assert "board" not in plain.system and plain.conditions["gate"]["ok"] is True
