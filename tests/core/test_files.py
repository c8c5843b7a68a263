from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy import files
from irepdeploy.errors import InputError, OutputError, RunError
from irepdeploy.files import (
    canonical_json,
    move_file,
    move_files,
    read_bytes,
    remove_file,
    sha256,
    write_bytes,
    write_json,
)
from support.tiny import at_call, raising


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
from irepdeploy.files import write_bytes
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
        for write in (lambda to: write_bytes(to, b"x"), lambda to: write_json(to, {})):
            with pytest.raises(OutputError, match="cannot write") as caught:
                write(path)
            assert str(path) in caught.value.line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_ends_with_a_line_and_has_no_nan(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", value)
    assert not list(tmp_path.iterdir())
    text = write_json(tmp_path / "a", {"b": [1, 2]}).read_text()
    assert text.endswith("}\n") and json.loads(text) == {"b": [1, 2]}


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


def test_moving_and_removing(tmp_path: Path) -> None:
    remove_file(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    for call in (lambda: remove_file(tmp_path / "folder"), lambda: move_file(tmp_path / "none", tmp_path / "a")):
        with pytest.raises(OutputError):
            call()


_EARLIER = {"gone": b"1", "model": b"1", "marker": b"1", "mine": b"1"}
_NEW = {"model": b"2", "weights": b"2", "marker": b"2", "mine": b"1"}


def _ready(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """Return a function that moves new files over earlier ones and returns the resulting content."""
    for name in ("folder", "aside", "staging"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name).mkdir()
    for name, content in _EARLIER.items():
        (tmp_path / "folder" / name).write_bytes(content)
    new = [tmp_path / "staging" / name for name in ("model", "weights", "marker")]
    for path in new:
        path.write_bytes(_NEW[path.name])

    def publish() -> dict[str, bytes]:
        move_files(new, tmp_path / "folder", tmp_path / "aside", remove=["absent", "gone"])
        return everything(tmp_path / "folder")

    return publish


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_of_several_files_all_or_none_are_moved(
    error: BaseException, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", raising(OSError(errno.EPERM, "no links")))
    assert _ready(tmp_path)() == _NEW
    moments = 0
    for name, calls in {"link": 3 * links, "copyfile": 3 * (not links), "unlink": 3, "replace": 3}.items():
        module = shutil if name == "copyfile" else os
        for call in range(1, calls + 1):
            publish = _ready(tmp_path)
            with monkeypatch.context() as patch:
                patch.setattr(module, name, at_call(call, getattr(module, name), raising(error)))
                if name == "link" and isinstance(error, OSError):
                    assert publish() == _NEW  # a copy does as well
                else:
                    with pytest.raises(RunError if isinstance(error, OSError) else KeyboardInterrupt):
                        publish()
                    assert everything(tmp_path / "folder") == _EARLIER, f"{name}, call {call}"
                moments += 1
    assert moments == 9


@pytest.mark.parametrize("call", [1, 2, 3])
def test_where_nothing_can_be_put_back_no_file_vouches_for_the_others(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, itertools.count(1)

    def replace(*args: Any) -> None:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, "full")
        real(*args)

    publish = _ready(tmp_path)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RunError, match="free some space"):
        publish()
    found = everything(tmp_path / "folder")
    assert "marker" not in found and found["mine"] == b"1"
    assert found["model"] == (b"1" if call == 1 else b"2")


def test_digests(tmp_path: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(b"abc") == known
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == sha256(str(tmp_path / "a")) == known


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": "ö"}) == canonical_json({"a": "ö", "b": 1}) == b'{"a":"\\u00f6","b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
