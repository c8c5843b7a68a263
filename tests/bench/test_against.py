"""The regression guard on records with synthetic samples."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irepdeploy.bench.against import NEW, NOT_DECIDED, OK, SLOWER, Guard, parse_max_slower, require
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.runs.record import Record, append, read
from support.records import make_record

SYSTEM = {
    "cpu": {"model": "EPYC", "machine": "x86_64", "logical_cores": 2, "affinity": 2, "quota_cores": "none"},
    "gpu": "none",
}


def noisy(median_ms: float, *, spread: float = 0.01, n: int = 200, seed: int = 0) -> list[int]:
    noise = np.random.default_rng(seed).standard_normal(n) * spread
    return [round(value) for value in median_ms * 1e6 * (1 + noise)]


def record(model: str = "plain", median_ms: float = 10.0, *, seed: int = 0, **changes: Any) -> Record:
    runner = {"runner": "ort-cpu", "device": "cpu", "threads": 1, "transfers": "none", "spinning": True}
    values = {"runner": runner, "samples_ns": noisy(median_ms, seed=seed), "system": SYSTEM}
    return make_record(model, **{**values, **changes})


def then(model: str = "plain", median_ms: float = 10.0, **changes: Any) -> Record:
    return record(model, median_ms, **{"seed": 1, "created": "2026-01-01T00:00:00+00:00", **changes})


@pytest.mark.parametrize(
    ("now_ms", "limit", "outcome"),
    [
        (10.0, 0.05, OK),
        (9.0, 0.05, OK),
        (9.0, 0.0, OK),
        (10.2, 0.05, OK),
        (10.5, 0.05, NOT_DECIDED),
        (11.0, 0.05, SLOWER),
        (11.0, 0.2, OK),
        (20.0, 0.05, SLOWER),
    ],
)
def test_outcome_is_that_of_the_whole_interval(now_ms: float, limit: float, outcome: str) -> None:
    (verdict,) = Guard([then()], limit).check([record(median_ms=now_ms)])
    assert verdict.outcome == outcome
    assert verdict.limit == 1 + limit
    assert verdict.ratio.value == pytest.approx(now_ms / 10, rel=0.01)
    assert verdict.ratio.low < verdict.ratio.value < verdict.ratio.high
    assert (verdict.median_ms, verdict.median_ms_before) == pytest.approx((now_ms, 10.0), rel=0.01)
    # Same records, same verdict.
    assert Guard([then()], limit).check([record(median_ms=now_ms)]) == [verdict]


def test_few_samples_decide_nothing() -> None:
    for now, before in ((5, 200), (200, 5)):
        few = record(median_ms=30.0, samples_ns=noisy(30.0, n=now))
        (verdict,) = Guard([then(samples_ns=noisy(10.0, n=before))], 0.05).check([few])
        assert verdict.outcome == NOT_DECIDED
        assert "too few samples" in verdict.line


def test_samples_that_scatter_decide_nothing() -> None:
    wild = record(samples_ns=noisy(11.0, spread=0.5, n=30))
    (verdict,) = Guard([then()], 0.05).check([wild])
    assert verdict.outcome == NOT_DECIDED


def test_models_are_paired_by_label_runner_precision_and_shape() -> None:
    other_runner = {**record().runner, "runner": "torch"}
    now = [
        record("a", 10.0),
        record("a", 20.0, runner=other_runner),
        record("a", 30.0, precision="fp16"),
        record("a", 40.0, input_shape=[8, 3, 32, 32], batch=8),
        record("b", 50.0),
    ]
    earlier = [replace(each, created="2026-01-01T00:00:00+00:00") for each in reversed(now[:4])]
    verdicts = Guard(earlier, 0.05).check(now)
    assert [verdict.outcome for verdict in verdicts] == [OK] * 4 + [NEW]
    assert [verdict.ratio.value for verdict in verdicts[:4]] == [1.0] * 4
    assert verdicts[4].ratio is None and verdicts[4].median_ms_before is None
    assert verdicts[4].line.startswith("b (ort-cpu, fp32, 1x3x32x32): not in the record, ")


def test_the_last_of_several_earlier_ones_counts() -> None:
    (verdict,) = Guard([then(median_ms=5.0, created="2025-12-31"), then(median_ms=10.0)], 0.05).check([record()])
    assert verdict.outcome == OK


def test_a_run_is_not_held_against_itself(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append(path, then())
    slow = record(median_ms=20.0)
    append(path, slow)
    assert Guard(read(path), 0.05).check([slow])[0].outcome == SLOWER
    with pytest.raises(InputError, match="none of these models") as caught:
        Guard([slow], 0.05).check([slow])
    assert "no other run" in caught.value.hint


def test_a_file_with_a_torn_last_line_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.jsonl"
    append(path, then())
    append(path, then(median_ms=1.0))
    os.truncate(path, path.stat().st_size - 100)
    assert Guard(read(path), 0.05).check([record()])[0].outcome == OK
    assert "torn" in capsys.readouterr().err


def test_a_bad_line_is_left_out_unless_it_may_be_the_one_that_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "records.jsonl"
    append(path, then(median_ms=5.0))
    append(path, then(median_ms=20.0, created="2026-01-01T12:00:00+00:00"))
    append(path, then())
    first, bad, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + bad[:-50] + b"\n" + last)
    assert Guard.read(path, 0.05).check([record()])[0].outcome == OK
    assert f"omitted: {path}, line 2: not a record: not JSON" in capsys.readouterr().err
    # A model that only occurs before the bad line, or nowhere.
    for lines, model in ((first + bad[:-50] + b"\n", "plain"), (bad[:-50] + b"\n" + last, "new")):
        path.write_bytes(lines)
        with pytest.raises(InputError, match=rf"may be the last record of {model} \(ort-cpu"):
            Guard.read(path, 0.05).check([record(), record(model)])


def test_none_of_the_models_is_there() -> None:
    with pytest.raises(InputError, match=r"none of these models is in this record: new \(ort-cpu") as caught:
        Guard([then("a"), then("b")], 0.05).check([record("new")])
    assert "it holds a (ort-cpu, fp32, 1x3x32x32), b (ort-cpu" in caught.value.hint
    assert caught.value.exit_code == 2


def changed(block: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**block, **fields}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"protocol_version": 2}, "measured by protocol version 2, this run by 1"),
        ({"runner": changed(record().runner, threads=2)}, "measured with threads 2, this run with 1"),
        ({"runner": changed(record().runner, spinning=False)}, "measured with spinning False, this run with True"),
        ({"runner": changed(record().runner, device="cuda")}, "measured with device cuda"),
        ({"samples_ns": [0] * 64}, "a sample of 0 ns"),
        ({"samples_ns": [10**400] * 64}, "more than thirty years"),
        ({"system": {"cpu": changed(SYSTEM["cpu"], model="Xeon")}}, "another machine: model Xeon, here EPYC"),
        ({"system": {"cpu": changed(SYSTEM["cpu"], affinity=1)}}, "another machine: affinity 1, here 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        Guard([then(**fields)], 0.05).check([record()])
    assert caught.value.hint
    assert "plain" in caught.value.where


def test_another_machine_may_be_allowed() -> None:
    other = then(system={"cpu": changed(SYSTEM["cpu"], model="Xeon")})
    assert Guard([other], 0.05, other_machine=True).check([record()])[0].outcome == OK
    # Unknown facts about a machine do not count as a difference.
    for cpu in ({"model": "unknown"}, {}, None):
        assert Guard([then(system={"cpu": cpu})], 0.05).check([record()])[0].outcome == OK


def test_tf32_and_the_gpu_count_on_a_gpu_alone() -> None:
    gpu = {"runner": "torch", "device": "cuda:0", "threads": 1, "transfers": "excluded", "tf32": False}
    a100 = changed(SYSTEM, gpu=[{"name": "A100", "clocks.sm": "1"}])
    now = record(runner=gpu, system=a100)
    assert Guard([then(runner=gpu, system=a100)], 0.05).check([now])[0].outcome == OK
    with pytest.raises(InputError, match="measured with tf32 True, this run with False"):
        Guard([then(runner=changed(gpu, tf32=True), system=a100)], 0.05).check([now])
    h200 = changed(SYSTEM, gpu=[{"name": "H200", "clocks.sm": "1"}])
    with pytest.raises(InputError, match=r"GPU \['H200'\], here \['A100'\]"):
        Guard([then(runner=gpu, system=h200)], 0.05).check([now])
    # It does not affect models that run on the CPU.
    assert Guard([then(system=h200)], 0.05).check([record(system=a100)])[0].outcome == OK


def test_verdicts_as_text_and_json() -> None:
    shaky = record(median_ms=20.0, warmup={"steady": False})
    slower, new = Guard([then()], 0.05).check([shaky, record("b")])
    assert slower.line.startswith("plain (ort-cpu, fp32, 1x3x32x32): slower, 2.00")
    assert "allowed 1.050; 10.0" in slower.line and slower.line.endswith("ms, unsteady")
    assert not slower.steady and new.steady
    found = json.loads(json.dumps([slower.to_json(), new.to_json()], allow_nan=False))
    assert set(found[0]["ratio"]) == {"value", "low", "high"}
    assert (found[0]["outcome"], found[1]["outcome"], found[1]["ratio"]) == ("slower", "not in the record", None)


def test_only_what_is_slower_fails(capsys: pytest.CaptureFixture[str]) -> None:
    now = [record("a", 10.0), record("b", 10.5), record("c", 20.0), record("d", 1.0)]
    verdicts = Guard([then("a"), then("b"), then("c")], 0.05).check(now)
    require([verdict for verdict in verdicts if verdict.outcome != SLOWER])
    assert capsys.readouterr().err.count("no decision about b (ort-cpu)") == 1
    with pytest.raises(CheckFailed, match="1 of 4 slower than allowed: c ") as caught:
        require(verdicts)
    assert caught.value.exit_code == 1
    assert "1.9" in caught.value.what or "2.0" in caught.value.what
    require([])


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), (" 2.5 % ", 0.025), ("0%", 0.0), ("150%", 1.5)])
def test_percentages(text: str, value: float) -> None:
    assert parse_max_slower(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "5", "%", "-1%", "nan%", "inf%", "five%", "5%%", "5% slower"])
def test_not_a_percentage(text: str) -> None:
    with pytest.raises(InputError, match="expected a percentage") as caught:
        parse_max_slower(text)
    assert "5%" in caught.value.line
