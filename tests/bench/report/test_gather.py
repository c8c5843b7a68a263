from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.report.gather import gather
from irepdeploy.errors import InputError
from irepdeploy.runs.record import Record
from irepdeploy.verify.certificate import Artefact, Certificate

Make = Callable[..., Record]
Write = Callable[..., Path]


def certificate(folder: Path, **changes: Any) -> Path:
    """A certificate of one file, both in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    model.write_bytes(b"a model")
    values: dict[str, Any] = {"source": {"net": "vgg6", "file": "runs/x/best.pt"}, "target": {"name": "ort"}}
    made = Certificate(**{**values, "artefacts": [Artefact.of(model)], "hops": [], **changes})
    return made.save(folder / "certificate.json")


def test_folders_are_walked_and_files_are_read(make_record: Make, write_records: Write, tmp_path: Path) -> None:
    write_records([make_record("a")], tmp_path / "one" / "deep")
    write_records([make_record("b")], tmp_path / "two")
    (tmp_path / "two" / "records.jsonl").rename(tmp_path / "two" / "named.jsonl")
    write_records([make_record("hidden")], tmp_path / "one" / ".staging")
    certificate(tmp_path / "one" / "export")
    found = gather([tmp_path / "one", tmp_path / "two" / "named.jsonl"])
    assert [record.model for record in found.records] == ["a", "b"]
    assert [each.path.parent.name for each in found.certificates] == ["export"]
    assert tmp_path / "one" / "deep" in found.folders
    assert found.notes == []


def test_a_measurement_counts_once_wherever_it_lies(make_record: Make, write_records: Write, tmp_path: Path) -> None:
    folder = write_records([make_record("a"), make_record("b"), make_record("a", seed=1)], tmp_path / "r")
    shutil.copytree(folder, folder / "copy")
    found = gather([folder, folder, folder / "records.jsonl"])
    assert [record.model for record in found.records] == ["a", "b", "a"]


def test_a_torn_last_line_is_left_out_and_said(make_record: Make, write_records: Write) -> None:
    folder = write_records([make_record("a"), make_record("b")])
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    found = gather([folder])
    assert [record.model for record in found.records] == ["a"]
    assert len(found.notes) == 1 and "torn" in found.notes[0] and str(path) in found.notes[0]


def test_a_last_line_without_its_end_is_whole(make_record: Make, write_records: Write) -> None:
    folder = write_records([make_record("a")])
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    found = gather([folder])
    assert ([record.model for record in found.records], found.notes) == (["a"], [])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"schema": 99, "samples_ns": [1]}', "schema version 99"),
        ('{"schema": 1, "samples_ns": [1]}', "fields missing"),
        ("no json", "not JSON"),
        ('{"schema": 2, "schema": 2}', "occurs twice"),
        ('{"suite": "table1", "check": "0"}', "does not match its check"),
    ],
)
def test_a_bad_line_is_omitted_with_a_note_and_a_file_without_a_good_one_refused(
    make_record: Make, write_records: Write, tmp_path: Path, line: str, said: str
) -> None:
    good = write_records([make_record("good")], tmp_path / "r")
    half = tmp_path / "r" / "half.jsonl"
    half.write_text(json.dumps(asdict(make_record("half"))) + f"\n{line}\n")
    for place in (good, half):
        found = gather([place])
        assert [record.model for record in found.records] == (["half", "good"] if place == good else ["half"])
        assert said in found.notes[0] and f"{half}, line 2" in found.notes[0]
    half.write_text(f"{line}\n")
    assert f"{half}, line 1" in gather([good]).notes[0]
    with pytest.raises(InputError, match=said):
        gather([half])


@pytest.mark.parametrize(
    ("samples", "said"), [([0, 5, 5], "0 ns"), ([5, 2 * 10**18], "thirty years"), ([5, 10**30], "number too large")]
)
def test_times_that_are_none_are_left_out(
    make_record: Make, write_records: Write, samples: list[int], said: str
) -> None:
    found = gather([write_records([make_record("good"), make_record("bad", samples_ns=samples)])])
    assert [record.model for record in found.records] == ["good"]
    assert said in found.notes[0]


def test_lines_of_other_suites_and_of_none(make_record: Make, write_records: Write) -> None:
    folder = write_records([make_record("a")])
    lines = [{"suite": "table1", "samples_ns": {"naive": [1, 2]}}, {"benchmark": "export"}, {"event": "start"}, [1], 7]
    with (folder / "records.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    found = gather([folder])
    assert [line.get("suite", line.get("benchmark")) for line in found.others] == ["table1", "export"]
    assert (len(found.records), found.notes) == (1, [])


def test_a_folder_that_may_not_be_read_is_reported(
    make_record: Make, write_records: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records([make_record("a")], tmp_path / "r")
    (tmp_path / "r" / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = gather([tmp_path / "r"])
    assert len(found.records) == 1
    assert found.notes == [f"omitted: {tmp_path / 'r' / 'closed'}: Permission denied"]


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing to report.*irepdeploy search"):
        gather([tmp_path])
    (tmp_path / "journal.jsonl").write_text('{"event": "start"}\n')
    with pytest.raises(InputError, match="nothing to report"):
        gather([tmp_path])
    with pytest.raises(InputError, match="recipe is missing"):
        gather([tmp_path / "journal.jsonl"])
    (tmp_path / "none.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="no measurement in it"):
        gather([tmp_path / "none.jsonl"])
    with pytest.raises(InputError, match="no such folder or file"):
        gather([tmp_path / "nowhere"])


def test_a_certificate_that_its_files_have_left(tmp_path: Path) -> None:
    certificate(tmp_path / "kept")
    changed = certificate(tmp_path / "changed").with_name("model.onnx")
    changed.write_bytes(b"another model")
    certificate(tmp_path / "lost").with_name("model.onnx").unlink()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "certificate.json").write_text("{}")
    found = gather([tmp_path])
    faults = {each.path.parent.name: each.fault for each in found.certificates}
    assert faults["kept"] is None
    assert "digest differs" in str(faults["changed"]) and "model.onnx" in str(faults["changed"])
    assert "no such file" in str(faults["lost"])
    assert len(found.notes) == 1 and "broken" in found.notes[0]
    # Only the name of the source is shown, not its folder.
    assert {each.source for each in found.certificates} == {"vgg6 best.pt"}


def test_a_certificates_verdict_is_its_own(tmp_path: Path) -> None:
    certificate(tmp_path / "a", failure="outputs differ")
    certificate(tmp_path / "b")
    verdicts = {each.path.parent.name: each.verdict for each in gather([tmp_path]).certificates}
    # A certificate without hops proves nothing.
    assert verdicts == {"a": "failed: outputs differ", "b": "failed: a hop exceeds its tolerance"}
