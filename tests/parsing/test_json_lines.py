from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.errors import InputError, OutputError
from irepdeploy.parsing import json_lines
from irepdeploy.parsing.json_lines import append_line, read_lines
from irepdeploy.parsing.json_text import unsealed


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    for number in range(3):
        append_line(path, {"n": number, "text": "größe"})
    return path


def kept(value: Any, where: str) -> Any:
    return unsealed(value)


def values(path: Path) -> list[int]:
    return [value["n"] for value in read_lines(path, kept).values.values()]


def test_lines_are_numbered_and_one_each(journal: Path) -> None:
    assert list(read_lines(journal, kept).values) == [1, 2, 3]
    assert journal.read_bytes().count(b"\n") == 3


def test_wherever_the_last_line_was_torn_the_next_one_fixes_it(journal: Path) -> None:
    whole = journal.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for size in range(last, len(whole) + 1):
        journal.write_bytes(whole[:size])
        before = [0, 1, 2] if size >= len(whole) - 1 else [0, 1]
        assert values(journal) == before
        append_line(journal, {"n": 9})
        assert values(journal) == [*before, 9]


def test_a_torn_line_is_cut_although_the_file_is_longer_than_the_window(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 100)
    with open(journal, "ab") as file:
        file.write(b'{"n": 7, "te')
    append_line(journal, {"n": 9})
    assert values(journal) == [0, 1, 2, 9]


BAD = [
    b"{",
    b"\xff",
    b"[1,",
    b'{"a": NaN}',
    b"[" * 100_000,
    b'{"a": 1, "a": 1}',
    b'{"a": 1e999}',
    b'{"a": 1' + b"0" * 30 + b"}",
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_is_named_and_the_others_count(
    bad: bytes, journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], bad, lines[2], b""]))
    assert values(journal) == [0, 2]
    assert f"omitted: {journal}, line 2: not a line: " in capsys.readouterr().err
    with pytest.raises(InputError, match="line 2"):
        read_lines(journal, kept, "journal", strict=True)


@pytest.mark.parametrize("bad", BAD)
def test_a_file_of_bad_lines_is_refused(bad: bytes, journal: Path) -> None:
    journal.write_bytes(bad + b"\n\n" + bad + b"x\n")
    with pytest.raises(InputError, match="line 1"):
        read_lines(journal, kept)


def test_only_the_first_bad_lines_are_named(journal: Path) -> None:
    with open(journal, "a") as file:
        file.writelines(f"bad {number}\n" for number in range(25))
    notes: list[str] = []
    found = read_lines(journal, kept, note=notes.append)
    assert (len(found.values), len(found.faults), len(notes)) == (3, 25, 11)
    assert "line 4: not a line: not JSON" in notes[0] and notes[-1] == f"{journal}: 15 more lines are omitted"


def test_a_repeated_line_counts_once(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal.write_bytes(journal.read_bytes() * 2)
    assert values(journal) == [0, 1, 2]
    assert f"{journal}, line 4: repeats line 1 and is omitted" in capsys.readouterr().err


def test_a_line_longer_than_any_of_ours(journal: Path) -> None:
    with open(journal, "ab") as file:
        file.write(b'{"n": "' + b"x" * (1 << 22) + b'"}\n')
    found = read_lines(journal, kept)
    assert list(found.values) == [1, 2, 3] and "longer than 4 MiB" in found.faults[4].line


def test_every_flipped_bit_of_a_line_is_noticed(journal: Path) -> None:
    """A bit of the key "check" itself leaves a line as of an earlier version, which had other fields."""

    def strictly(value: Any, where: str) -> Any:
        try:
            return unsealed(value, ("n", "text"))
        except ValueError as error:
            raise InputError(str(error), where=where) from None

    first, second = journal.read_bytes().splitlines()[:2]
    for bit in range(8 * len(second)):
        damaged = bytearray(second)
        damaged[bit // 8] ^= 1 << bit % 8
        journal.write_bytes(first + b"\n" + damaged + b"\n")
        found = read_lines(journal, strictly, note=lambda text: None)
        assert found.values[1] == unsealed(json.loads(first))
        # A flip to a newline splits the line in two, neither of them good; another case of \\u00f6 is the same text.
        rest = {number: value for number, value in found.values.items() if number != 1}
        assert rest in ({}, {2: unsealed(json.loads(second))}), bytes(damaged)


@pytest.mark.parametrize("torn", [b'{"a": ' * 100_000, b'{"a": [' * 50_000])
def test_a_torn_line_however_deep(torn: bytes, journal: Path) -> None:
    with open(journal, "ab") as file:
        file.write(torn)
    assert values(journal) == [0, 1, 2]


def test_empty_lines_and_files_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert not read_lines(path, kept).values
    path.write_bytes(b'\n{"n": 1}\n\n')
    assert read_lines(path, kept).values == {2: {"n": 1}}


def test_an_interrupted_append_leaves_whole_lines(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(json_lines.os, "fsync", fails)
        with pytest.raises(OutputError):
            append_line(journal, {"n": 3})
    assert values(journal)[:3] == [0, 1, 2]
    append_line(journal, {"n": 4})
    assert values(journal)[-1] == 4


_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from irepdeploy.errors import RunError
from irepdeploy.parsing.json_lines import append_line
try:
    [append_line('a', {'n': n, 'text': 'x' * 90}) for n in range(20)]
except RunError as error:
    print(error.line)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "cannot write" in done.stdout
    lines = values(tmp_path / "a")
    assert lines == list(range(len(lines)))
    assert len(lines) >= 6
    assert (tmp_path / "a").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_that_is_not_json_is_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append_line(tmp_path / "a", {"n": value})
    assert not list(tmp_path.iterdir())


def test_a_line_is_plain_json_with_its_check_last(journal: Path) -> None:
    value = json.loads(journal.read_text().splitlines()[0])
    assert list(value) == ["n", "text", "check"] and len(value["check"]) == 16
    # The order of keys and spaces do not matter.
    assert unsealed(json.loads(json.dumps(value, indent=1, sort_keys=True))) == {"n": 0, "text": "größe"}
    with pytest.raises(ValueError, match="damaged: it does not match its check"):
        unsealed({**value, "n": 1})


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        append_line(tmp_path / "no" / "folder", {})


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
def test_what_is_no_regular_file_is_not_appended_to(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    if kind == "device":
        path.symlink_to("/dev/full")
    else:
        os.mkfifo(tmp_path / "pipe")
        path = path if kind == "link to a pipe" else tmp_path / "pipe"
        if kind == "link to a pipe":
            path.symlink_to("pipe")
    with pytest.raises(OutputError, match="not a regular file"):
        append_line(path, {})
