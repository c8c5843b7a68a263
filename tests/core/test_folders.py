from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.errors import OutputError, RunError
from irepdeploy.files import move_file, write_bytes
from irepdeploy.folders import LOCK, is_abandoned, make_folder, output_folder, staging_folder

# Holds the folder in its first argument until stdin ends; with "fork", a child lives until then too; with "bare",
# the folder stays empty.
_HOLDER = """
import contextlib, os, sys
from irepdeploy.folders import output_folder, staging_folder
bare = "bare" in sys.argv
with output_folder(sys.argv[1]) as folder, contextlib.nullcontext() if bare else staging_folder(folder) as staging:
    if staging is not None:
        (staging / "half").write_bytes(b"half")
    if sys.argv[2:] != ["fork"] or not os.fork():
        print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a folder."""
    command = [sys.executable, "-c", _HOLDER, str(folder), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def left_by_a_killed_writer(path: Path) -> str:
    """Write a temporary file next to `path`, as left by SIGKILL, and return its name."""
    code = (
        "import os, sys, signal; from irepdeploy import files\n"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_bytes(sys.argv[1], b'half')\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    (left,) = path.parent.glob(".irepdeploy-*.part")
    return left.name


def test_a_folder_is_created_and_held_and_its_lock_leaves_with_it(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a" / "b") as folder:
        assert folder == tmp_path / "a" / "b"
        assert below(tmp_path) == ["a", "a/b", f"a/b/{LOCK}"]
        assert LOCK.startswith(".")
        (folder / "result").touch()
    assert below(tmp_path) == ["a", "a/b", "a/b/result"]


def test_a_folder_that_stays_empty_is_removed_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path / "mine" / "a" / "b"):
        raise ZeroDivisionError
    with output_folder(tmp_path / "mine"):
        pass
    assert below(tmp_path) == ["mine"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for bad in (tmp_path / "file", tmp_path / "file" / "deeper", Path("/proc/irepdeploy")):
        with pytest.raises(OutputError, match="cannot write"), output_folder(bad):
            raise AssertionError
        with pytest.raises(OutputError, match="cannot write"):
            make_folder(bad)
    assert below(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_the_run_that_holds_a_folder_enters_it_again_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with output_folder(tmp_path / "a"):
        for name in (tmp_path / "a", tmp_path / "link", tmp_path / "a" / ".." / "a"):
            with output_folder(name), output_folder(tmp_path / "a" / "inner") as inner:
                (inner / "result").touch()
        assert (tmp_path / "a" / LOCK).exists()
    assert below(tmp_path) == ["a", "a/inner", "a/inner/result", "link"]


def test_two_threads_are_two_runs(tmp_path: Path) -> None:
    errors = []

    def other() -> None:
        try:
            with output_folder(tmp_path):
                pass
        except RunError as error:
            errors.append(error.line)

    with output_folder(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(errors) == 1 and "this folder is in use by another thread of this process" in errors[0]
    other()
    assert len(errors) == 1


def test_the_second_process_says_who_holds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with holding(Path("a"), "--key", "two words", "x" * 300) as process:
        with pytest.raises(RunError) as caught, output_folder(tmp_path / "a"):
            raise AssertionError
        assert caught.value.exit_code == 4
        line = caught.value.line
        assert line.startswith(f"{tmp_path / 'a'}: this folder is in use by `-c a --key 'two words' xxx")
        assert f"xxx...` (process {process.pid} on {socket.gethostname()}, since 2" in line
        # The files of the other run are not touched.
        assert len(list((tmp_path / "a").glob(".irepdeploy-staging-*/half"))) == 1
        process.communicate()
    with output_folder(tmp_path / "a"):
        pass


def test_a_killed_run_is_succeeded_by_the_next_which_clears_up(tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        process.kill()
    half = left_by_a_killed_writer(tmp_path / "model.onnx")
    # Owned by another user.
    (tmp_path / ".film.download.part").touch()
    (tmp_path / ".staging-web").mkdir()
    names = below(tmp_path)
    assert LOCK in names and half in names and any(name.endswith("/half") for name in names)
    with output_folder(tmp_path):
        assert below(tmp_path) == [".film.download.part", LOCK, ".staging-web"]
    assert below(tmp_path) == [".film.download.part", ".staging-web"]


def test_a_run_that_was_killed_before_it_wrote_anything(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with holding(folder, "bare") as process:
        assert below(folder) == [LOCK] and not is_abandoned(folder)
        process.kill()
        process.wait()
        assert is_abandoned(folder) and below(folder) == [LOCK]
    (folder / "journal.jsonl").touch()
    assert not is_abandoned(folder)
    (folder / "journal.jsonl").unlink()
    # Locks on a network file system may apply to one machine only.
    (folder / LOCK).write_text(json.dumps({"host": "elsewhere"}))
    assert not is_abandoned(folder)
    (folder / LOCK).unlink()
    assert not is_abandoned(folder) and not is_abandoned(tmp_path / "none")


def test_a_child_of_a_killed_run_neither_holds_its_folder_nor_releases_that_of_another(tmp_path: Path) -> None:
    with holding(tmp_path, "fork") as process:
        process.kill()
        process.wait()
        # The child still waits for the end of stdin, and closes stdout when it has left its blocks.
        with output_folder(tmp_path) as folder, staging_folder(folder):
            before = below(tmp_path)
            process.communicate()
            assert below(tmp_path) == before


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture may be drawn into the folder of a search."""
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        with output_folder(tmp_path):
            assert Path(source).exists()
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_bytes(tmp_path / "picture.png", b"whole")
    assert below(tmp_path) == ["picture.png"]


def test_a_writer_whose_new_file_is_taken_for_abandoned_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, taken = fcntl.flock, []

    def flock(file: Any, operation: int) -> None:
        if not taken:
            (left,) = tmp_path.glob(".irepdeploy-*.part")
            taken.append(left)
            left.unlink()
        elif len(taken) == 1:
            taken.append(next(tmp_path.glob(".irepdeploy-*.part")))
            raise BlockingIOError
        original(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_bytes(tmp_path / "a", b"whole")
    assert len(taken) == 2 and (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_to_be_one(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".irepdeploy-staging-x").mkdir()
    with output_folder(tmp_path) as folder:
        write_bytes(folder / "a", b"whole")
    assert "this file system has no locks" in capsys.readouterr().err
    # Its owner cannot be known.
    assert below(tmp_path) == [".irepdeploy-staging-x", "a"]


def test_a_pipe_with_the_name_of_a_staging_folder_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / ".irepdeploy-staging-x"
    os.mkfifo(pipe)
    signal.alarm(600)
    try:
        with output_folder(tmp_path):
            assert below(tmp_path) == [pipe.name, LOCK]
    finally:
        signal.alarm(0)


def test_a_lock_that_another_machine_left_is_taken_over_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = {"pid": 7, "host": "elsewhere", "command": "irepdeploy search", "since": "2026-01-01 00:00:00+00:00"}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    with output_folder(tmp_path):
        pass
    described = "`irepdeploy search` (process 7 on elsewhere, since 2026-01-01 00:00:00+00:00)"
    assert f"{described} left this folder locked" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"7", b'{"pid": []}', b"\xff" * 9])
def test_any_content_of_a_lock_that_was_left(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with output_folder(tmp_path):
        assert json.loads((tmp_path / LOCK).read_bytes())["pid"] == os.getpid()


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(RunError, match="no space left"), output_folder(tmp_path / "out"):
        raise AssertionError
    assert below(tmp_path) == []


def test_a_lock_that_is_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for make in (
        lambda lock: lock.symlink_to(tmp_path / "mine"),
        lambda lock: lock.hardlink_to(tmp_path / "mine"),
        Path.mkdir,
        os.mkfifo,
    ):
        folder = make_folder(tmp_path / "out")
        make(folder / LOCK)
        with pytest.raises(OutputError, match=f"{LOCK}.*(link|pipe|folder)"), output_folder(folder):
            raise AssertionError
        os.rename(folder / LOCK, tmp_path / "away")
        (tmp_path / "away").rmdir() if (tmp_path / "away").is_dir() else (tmp_path / "away").unlink()
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_vanishes_while_it_is_locked_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that held it was refused and has just removed it."""
    original, times = fcntl.flock, []

    def flock(file: Any, operation: int) -> None:
        if not times:
            (tmp_path / "a" / LOCK).unlink()
            (tmp_path / "a").rmdir()
        times.append(operation)
        original(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with output_folder(tmp_path / "a") as folder:
        assert (folder / LOCK).exists()
    assert below(tmp_path) == []


def test_a_folder_that_is_moved_while_it_is_held_leaves_the_lock_of_another_run(tmp_path: Path) -> None:
    with output_folder(tmp_path / "a") as folder:
        os.rename(folder, tmp_path / "moved")
        folder.mkdir()
        (folder / LOCK).write_text("another run's")
    assert (folder / LOCK).read_text() == "another run's"


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
    assert below(tmp_path) == ["kept"]
