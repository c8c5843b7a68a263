from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from irepdeploy import files
from irepdeploy.errors import InputError, OutputError, RunError
from irepdeploy.files import (
    append_line,
    canonical_json,
    move_file,
    read_bytes,
    read_lines,
    remove_file,
    sha256,
    write_bytes,
    write_json,
)
from irepdeploy.folders import output_folder, staging_folder


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_write_and_write_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write_bytes(path, b"old") == path
    write_bytes(path, b"new")
    assert everything(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("name", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.EIO, "Input/output error"), OutputError),
        (OSError(errno.ENOSPC, "No space left on device"), RunError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), RunError),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_leaves_the_old_content_and_no_trace(
    name: str, failure: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def fails(*args: Any) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, fails)
        with pytest.raises(raised):
            write_bytes(path, b"new")
    assert everything(tmp_path) == {"a": b"old"}


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, sync = os.replace, os.fsync

    def watched_replace(source: Any, target: Any) -> None:
        order.append(f"replace {Path(source).read_bytes()!r}")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    def watched_sync(descriptor: int) -> None:
        order.append("sync")
        sync(descriptor)

    monkeypatch.setattr(files.os, "replace", watched_replace)
    monkeypatch.setattr(files.os, "fsync", watched_sync)
    write_bytes(tmp_path / "a", b"all of it")
    assert order == ["sync", "replace b'all of it'", "sync"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    whole = [bytes([digit]) * 200_000 for digit in b"12"]
    write_bytes(path, whole[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        write_bytes(path, whole[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(whole)


_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from irepdeploy.errors import RunError
from irepdeploy.files import append_line, write_bytes
try:
    {call}
except RunError as error:
    print(error.line)
    sys.exit(error.exit_code)
"""


def limited(call: str, folder: Path) -> str:
    """Run a write in a process whose files may not grow over 1,000 bytes."""
    command = [sys.executable, "-c", _LIMITED.format(call=call)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    return done.stdout


def test_a_full_disk_ends_the_run_and_leaves_the_old_content(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    assert "a: cannot write: file too large (free some space" in limited("write_bytes('a', b'x' * 5000)", tmp_path)
    assert everything(tmp_path) == {"a": b"old"}


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    call = "[append_line('a', {'n': n, 'text': 'x' * 90}) for n in range(20)]"
    assert "cannot write" in limited(call, tmp_path)
    lines = [value["n"] for _, value in read_lines(tmp_path / "a")]
    assert lines == list(range(len(lines)))
    assert len(lines) >= 8
    assert (tmp_path / "a").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_the_mode_is_what_the_users_umask_says(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = write_bytes(tmp_path / "a", b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    bad = [tmp_path / "none" / "a", tmp_path / "file" / "a", tmp_path / "folder", tmp_path / ("x" * 300)]
    for path in bad:
        for write in (lambda to: write_bytes(to, b"x"), lambda to: append_line(to, {})):
            with pytest.raises(OutputError, match="cannot write") as caught:
                write(path)
            assert str(path) in caught.value.line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_ends_with_a_line_and_has_no_nan(value: Any, tmp_path: Path) -> None:
    for write in (write_json, append_line):
        with pytest.raises(ValueError, match="JSON"):
            write(tmp_path / "a", value)
    assert not list(tmp_path.iterdir())
    text = write_json(tmp_path / "a", {"b": [1, 2]}).read_text()
    assert text.endswith("}\n") and json.loads(text) == {"b": [1, 2]}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    for number in range(3):
        append_line(path, {"n": number, "text": "größe"})
    return path


def values(path: Path) -> list[int]:
    return [value["n"] for _, value in read_lines(path)]


def test_lines_are_numbered_and_one_each(journal: Path) -> None:
    assert [number for number, _ in read_lines(journal)] == [1, 2, 3]
    assert journal.read_bytes().count(b"\n") == 3


def test_wherever_the_last_line_was_torn_the_next_one_fixes_it(journal: Path) -> None:
    whole = journal.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for size in range(last, len(whole) + 1):
        journal.write_bytes(whole[:size])
        kept = [0, 1, 2] if size >= len(whole) - 1 else [0, 1]
        assert values(journal) == kept
        append_line(journal, {"n": 9})
        assert values(journal) == [*kept, 9]


def test_a_torn_line_is_cut_although_the_file_is_longer_than_the_window(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_LONGEST_LINE", 40)
    with open(journal, "ab") as file:
        file.write(b'{"n": 7, "te')
    append_line(journal, {"n": 9})
    assert values(journal) == [0, 1, 2, 9]


@pytest.mark.parametrize("bad", [b"{", b"\xff", b"[1,", b'{"a": NaN}', b"[" * 100_000])
def test_a_line_in_the_middle_that_is_not_json_is_named(bad: bytes, journal: Path) -> None:
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([lines[0], bad, lines[2], b""]))
    with pytest.raises(InputError, match="line 2"):
        list(read_lines(journal, "journal"))


@pytest.mark.parametrize("torn", [b'{"a": ' * 100_000, b'{"a": [' * 50_000])
def test_a_torn_line_however_deep(torn: bytes, journal: Path) -> None:
    with open(journal, "ab") as file:
        file.write(torn)
    assert values(journal) == [0, 1, 2]


def test_empty_lines_and_files_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"")
    assert not list(read_lines(path))
    path.write_bytes(b'\n{"n": 1}\n\n')
    assert list(read_lines(path)) == [(2, {"n": 1})]


def test_an_interrupted_append_leaves_whole_lines(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fails)
        with pytest.raises(OutputError):
            append_line(journal, {"n": 3})
    assert values(journal)[:3] == [0, 1, 2]
    append_line(journal, {"n": 4})
    assert values(journal)[-1] == 4


def test_reading_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, said in (
        (tmp_path / "none", "no such thing"),
        (tmp_path, "expected a thing, got a directory"),
        (tmp_path / "file" / "a", "cannot read this thing"),
    ):
        with pytest.raises(InputError) as caught:
            read_bytes(path, "thing")
        assert said in caught.value.line
        assert str(path) in caught.value.line


def test_an_output_folder_is_made_and_tried(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "a" / "b").is_dir()
    assert output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("mine")
    for bad in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="cannot write"):
            output_folder(bad)
    assert (tmp_path / "file").read_text() == "mine"


def interrupted(folder: Path) -> Iterator[None]:
    with staging_folder(folder) as staging:
        (staging / "kept").write_text("kept")
        (staging / "lost").write_text("lost")
        move_file(staging / "kept", folder / "kept")
        raise KeyboardInterrupt
    yield


def test_a_staging_folder_leaves_only_what_was_moved_out(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(interrupted(tmp_path))
    assert everything(tmp_path) == {"kept": b"kept"}


def test_moving_and_removing(tmp_path: Path) -> None:
    remove_file(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    for call in (lambda: remove_file(tmp_path / "folder"), lambda: move_file(tmp_path / "none", tmp_path / "a")):
        with pytest.raises(OutputError):
            call()


def test_digests(tmp_path: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == known
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == sha256(str(tmp_path / "a")) == known


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": "ö"}) == canonical_json({"a": "ö", "b": 1}) == b'{"a":"\\u00f6","b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_what_a_killed_process_staged_is_cleared_away(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left, alive = tmp_path / f".staging-{dead.stdout.strip()}-abc", tmp_path / f".staging-{os.getpid()}-abc"
    for folder in (left, alive):
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"half")
    with staging_folder(tmp_path):
        assert not left.exists() and alive.exists()
