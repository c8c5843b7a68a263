from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from irepdeploy.errors import InputError, OutputError
from irepdeploy.runs.record import SCHEMA_VERSION, Record, append, read, read_numbered

RECORD = Record(
    suite="models",
    scenario="single-stream",
    model="größe",
    source="onnx",
    artefact_sha256="ab" * 32,
    runner={"runner": "ort-cpu", "provider": "CPUExecutionProvider", "threads": 1},
    precision="fp32",
    batch=1,
    input_shape=[1, 3, 32, 32],
    samples_ns=[1_000_001, 999_999, 2_000_000],
    warmup={"runs": 20, "steady": True, "cov": 0.01},
    protocol_version=1,
    system={"cpu": {"model": "unknown"}},
    conditions={"seed": 0, "interleaved_with": ["a", "b"]},
    argv=["irepdeploy", "bench"],
    created="2026-01-02T03:04:05.000006+00:00",
    facts={"net": "vgg16", "top1": 93.5, "top1_source": "paper, not measured"},
    device_samples_ns=[900_000, 900_001, 900_002],
    system_after={"gpu": "none"},
    power={"mean_mw": {"GPU": 1000}},
)

# Fields added in schema 2.
LATER = {"facts": {}, "device_samples_ns": [], "system_after": {}, "power": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    append(path, RECORD)
    append(path, replace(RECORD, model="b", artefact_sha256=None))
    return path


def test_what_was_appended_is_read(path: Path) -> None:
    assert read(path) == [RECORD, replace(RECORD, model="b", artefact_sha256=None)]
    assert len(path.read_text().splitlines()) == 2


def test_appending_leaves_what_is_there(path: Path) -> None:
    before = path.read_bytes()
    append(path, RECORD)
    assert path.read_bytes().startswith(before)


def test_no_summary_is_stored_beside_the_samples() -> None:
    assert not {name for name in asdict(RECORD) if name.endswith("_ms") or name in ("median", "mean", "p90")}


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_torn_last_line_is_left_out_and_said_so(path: Path, cut: int, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(path, path.stat().st_size - cut)
    found = read(path)
    if cut == 1:
        # Only the newline is missing: the record is complete.
        assert len(found) == 2
        assert capsys.readouterr().err == ""
    else:
        assert found == [RECORD]
        assert "line 2 is torn" in capsys.readouterr().err


def test_appending_after_a_torn_line_keeps_the_file_readable(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 40)
    third = replace(RECORD, model="c")
    append(path, third)
    assert read(path) == [RECORD, third]


def test_torn_line_in_the_middle_is_named_and_omitted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:-30] + b"\n" + second)
    assert read(path) == [replace(RECORD, model="b", artefact_sha256=None)]
    assert f"omitted: {path}, line 1: not a record: not JSON" in capsys.readouterr().err


def test_a_changed_number_is_noticed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first.replace(b"999999", b"899999") + second)
    assert [each.model for each in read(path)] == ["b"]
    assert f"{path}, line 1: not a record: damaged: it does not match its check" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["no record", "\x89PNG", "[1, 2]", "7", '"text"', "{}", '{"a": 1}'])
def test_a_file_of_something_else_is_an_error_even_unterminated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "other"
    path.write_text(line)
    with pytest.raises(InputError, match="not a record"):
        read(path)


def changed(**fields: object) -> str:
    return json.dumps({**asdict(RECORD), **fields})


def first_version(**fields: object) -> str:
    kept = {name: value for name, value in asdict(RECORD).items() if name not in LATER}
    return json.dumps({**kept, "schema": 1, **fields})


def test_records_of_the_first_schema_are_read(path: Path) -> None:
    path.write_text(first_version() + "\n")
    (found,) = read(path)
    assert found == replace(RECORD, **LATER)
    # It is rewritten completely.
    append(path, found)
    assert read(path) == [found, found]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (changed(schema=SCHEMA_VERSION + 1), f"schema version {SCHEMA_VERSION + 1}"),
        (changed(schema="1"), "schema version '1'"),
        (changed(schema=True), "schema version True"),
        (changed(more=1), "more"),
        (json.dumps({key: value for key, value in asdict(RECORD).items() if key != "batch"}), "batch"),
        (changed(samples_ns="fast"), "not a record: samples_ns: expected a valid list, got 'fast'"),
        (changed(samples_ns=[]), "samples_ns"),
        (changed(samples_ns=[1, -2]), "samples_ns"),
        (changed(samples_ns=[1, 2.5]), "not a record: samples_ns.1: expected a valid integer, got 2.5"),
        (changed(samples_ns=[True]), "samples_ns"),
        (changed(device_samples_ns=[1.5, 2, 3]), "device_samples_ns"),
        (changed(device_samples_ns=[1]), "device_samples_ns are not one for each"),
        (changed(input_shape=[]), "input_shape"),
        (changed(facts=[]), "facts"),
        (changed(schema=1), "unknown: device_samples_ns, facts, power, system_after"),
        (first_version(schema=2), "missing or unknown: device_samples_ns, facts"),
        (first_version(batch=None), "batch"),
        (changed(schema=0), "schema version 0"),
        (changed(batch=None), "batch"),
        (changed(batch=True), "batch"),
        (changed(runner=[]), "runner"),
        (changed(conditions={"x": float("nan")}), "not JSON"),
        ("[" * 100_000, "not JSON"),
        (changed(batch=-3), "batch: expected greater than or equal to 1, got -3"),
        (changed(batch=0), "batch"),
        (changed(batch=2**31), "batch"),
        (changed(batch=10**30), "number too large: 10000000000000000000, 31 digits"),
        (changed(input_shape=[1, 0, 32]), "input_shape.1: expected greater than or equal to 1, got 0"),
        (changed(input_shape=[1, -3, 32]), "input_shape.1"),
        (changed(input_shape=[2**40]), "input_shape.0"),
        (changed(input_shape=[1] * 65), "input_shape"),
        (changed(samples_ns=[0, 1, 2]), "samples_ns: a sample of 0 ns"),
        (changed(samples_ns=[2**62, 1, 2]), "samples_ns: a sample of more than thirty years"),
        (changed(device_samples_ns=[-1, 2, 3]), "device_samples_ns.0"),
        (changed(created="now"), "created: expected a time such as 2026-01-02T03:04:05+00:00, got 'now'"),
        (changed(created="2026-13-45"), "created"),
        (changed(created=""), "created"),
        (changed(created=20260102), "created"),
        (changed(protocol_version=0), "protocol_version"),
        (changed(precision=""), "precision"),
        (changed(precision=16), "precision"),
        (changed(model=""), "model"),
        (changed(model="x" * 10_000), "model"),
        (changed(suite=7), "suite"),
        (changed(artefact_sha256="abc"), "artefact_sha256"),
        (changed(argv=[1]), "argv.0"),
        (changed(check="0" * 16), "damaged: it does not match its check"),
        (changed(check=None), "damaged: it does not match its check"),
        (changed(facts={"x": 1}).replace('"x": 1', '"x": 1e999'), "number too large"),
        (changed().replace('"batch": 1', '"batch": 1, "batch": 1'), "key 'batch' occurs twice"),
        (changed().replace('"cpu"', '"cpu": 1, "cpu"'), "key 'cpu' occurs twice"),
    ],
)
def test_bad_line_is_named_and_omitted(path: Path, line: str, text: str) -> None:
    good = read(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    append(path, RECORD)
    lines = read_numbered(path)
    # Line 4 is a copy of line 1.
    assert (list(lines.values), list(lines.faults)) == ([1, 2], [3]) and list(lines.values.values()) == good
    assert text in lines.faults[3].what
    assert lines.faults[3].where == f"{path}, line 3"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(path)
    assert text in caught.value.what


def test_bytes_that_are_not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="not JSON"):
        read(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        read(tmp_path / "missing")
    with pytest.raises(InputError, match="directory"):
        read(tmp_path)
    with pytest.raises(OutputError):
        append(tmp_path / "no" / "folder" / "records.jsonl", RECORD)
