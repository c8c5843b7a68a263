"""Clocks and power mode are restored, however a run ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.errors import InputError, MissingError, RunError
from irepdeploy.jetson.agent.cache import AgentCache
from irepdeploy.jetson.agent.guard import Guard, find_mode, restore_left, unrestored
from support.fake_board import FakeBoard
from support.processes import wait_for_end

Request = dict[str, Any]


@pytest.fixture
def long(xavier: Any, onnx_model: bytes) -> Request:
    """A bench that does not finish by itself during a test."""
    model = {"label": "m", "sha256": xavier.place(onnx_model)}
    endless = {"min_seconds": 600.0, "max_samples": 10**8, "warmup_min_seconds": 0.0, "warmup_max_seconds": 0.01}
    return {"models": [model], "mode": 0, **endless}


def until_measuring(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        yield event
        if event["event"] == "progress" and event["stage"] == "warm-up":
            return
    raise AssertionError("it never measured")


def rest(process: subprocess.Popen[bytes]) -> tuple[int, dict[str, Any]]:
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    return process.wait(600), json.loads(lines[-1])


def children(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in found} - found
        if not more:
            return found - {pid}
        found |= more


def words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        # It has ended meanwhile.
        return []


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_lost_desk_ends_a_run(xavier: Any, board: FakeBoard, long: Request) -> None:
    before = board.state()
    process = xavier.start("bench", {**long, "lifeline": {"heartbeat_s": 600}})
    list(until_measuring(process))
    assert board.state() != before
    below = children(process.pid)
    process.stdin.close()
    code, error = rest(process)
    assert (code, error["code"]) == (4, 4) and "the desk is gone" in error["what"]
    assert board.state() == before and xavier.left() == []
    for pid in below:
        wait_for_end(pid)


def test_the_agent_itself_is_killed(xavier: Any, board: FakeBoard, long: Request) -> None:
    before = board.state()
    process = xavier.start("bench", long)
    list(until_measuring(process))
    below = children(process.pid)
    # With all of its group, as a terminal or a session's end would; the guard is of another and sees its pipe close.
    os.killpg(process.pid, signal.SIGKILL)
    wait_for(lambda: board.state() == before and not (xavier.cache / "restore.json").exists())
    for pid in below:
        wait_for_end(pid)
    # The next run removes its folder.
    assert any(name.startswith("jobs/") for name in xavier.left())
    models = [{"label": "m", "sha256": long["models"][0]["sha256"], "precision": "int8"}]
    assert not xavier.bench(models).value["models"][0]["ok"]
    assert xavier.left() == []


def test_a_second_run_is_refused_and_the_measuring_process_is_killed(
    xavier: Any, board: FakeBoard, long: Request
) -> None:
    before = board.state()
    process = xavier.start("bench", long)
    list(until_measuring(process))
    with pytest.raises(RunError, match=rf"\(process {process.pid}\)"):
        xavier.bench(long["models"])
    for pid in children(process.pid):
        if "_measure" in words(pid):
            os.kill(pid, signal.SIGKILL)
    code, error = rest(process)
    assert code == 4 and error["what"] == "the measuring process crashed (signal 9)"
    assert board.state() == before and xavier.left() == []


@pytest.mark.slow
def test_the_guard_is_killed(xavier: Any, board: FakeBoard, long: Request) -> None:
    before = board.state()
    process = xavier.start("bench", long)
    list(until_measuring(process))
    os.kill(next(pid for pid in children(process.pid) if "_guard" in words(pid)), signal.SIGKILL)
    process.send_signal(signal.SIGTERM)
    assert rest(process)[0] == 4
    assert board.state() == before and xavier.left() == []


def test_everything_is_killed(xavier: Any, board: FakeBoard, long: Request) -> None:
    before = board.state()
    process = xavier.start("bench", long)
    list(until_measuring(process))
    below = children(process.pid)
    # Each would restore the board once the one before it is lost, and the agent also if it lost the measurement.
    guard = next(pid for pid in below if "_guard" in words(pid))
    os.kill(guard, signal.SIGKILL)
    wait_for_end(guard)
    process.kill()
    process.wait()
    for pid in below:
        wait_for_end(pid)
    assert board.state() != before
    answer = xavier.ask("check", {})
    assert answer.value["unrestored"]["steps"] == [
        "clocks as they were", "power mode 7 (MODE_15W_DESKTOP)", "clocks as they were"
    ]  # fmt: skip
    assert any("a run killed on" in text for text in answer.logs())
    restored = xavier.ask("restore", {}).value["restored"]
    assert len(restored) == 3 and board.state() == before
    assert xavier.ask("restore", {}).value["restored"] == []
    assert not (xavier.cache / "clocks").exists()


@pytest.fixture
def files(board: FakeBoard) -> BoardFiles:
    return BoardFiles(str(board.root))


@pytest.fixture
def cache(tmp_path: Path) -> AgentCache:
    return AgentCache(str(tmp_path / "cache"))


@pytest.fixture
def guard(archive: Path, board: FakeBoard, cache: AgentCache) -> Iterator[Guard]:
    import sys

    made = Guard([sys.executable, str(archive), "--sysroot", str(board.root), "--cache", cache.root, "_guard"])
    yield made
    with contextlib.suppress(ValueError):
        # Unless the test already did.
        made.restore()


def test_the_guard_is_deaf_to_signals_and_the_mode_it_is_in_is_not_set(board: FakeBoard, guard: Guard) -> None:
    assert guard.switch(7, pin=False) == []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard.pid, number)
    assert guard.restore() == []
    assert board.calls("nvpmodel -m") == []


def test_nvpmodel_has_the_last_word_on_a_reboot(board: FakeBoard, guard: Guard) -> None:
    board.write("etc/nvpmodel.conf", "")
    before = board.state()
    with pytest.raises(InputError, match="needs a reboot"):
        guard.switch(1, pin=True)
    guard.restore()
    assert board.state() == before and not (board.root / "rebooted").exists()


def test_clocks_that_were_held_before_are_held_again(board: FakeBoard, guard: Guard) -> None:
    subprocess.run([board.root / "usr/bin/jetson_clocks"], check=True)
    before = board.state()
    assert guard.switch(0, pin=True)[0] == "power mode 0 (MAXN), before: 7 (MODE_15W_DESKTOP)"
    assert board.state() != before
    guard.restore()
    assert board.state() == before


def test_clocks_that_cannot_be_stored_are_not_held(board: FakeBoard, guard: Guard) -> None:
    board.program("usr/bin/jetson_clocks", "\nexit 0\n")
    before = board.state()
    with pytest.raises(RunError, match="stored nothing"):
        guard.switch(0, pin=True)
    guard.restore()
    assert board.state() == before


def test_what_cannot_be_restored_is_told_and_tried_once_more(
    board: FakeBoard, guard: Guard, files: BoardFiles, cache: AgentCache
) -> None:
    guard.switch(0, pin=False)
    program = Path(board.root) / "usr/sbin/nvpmodel"
    working = program.read_text()
    board.program("usr/sbin/nvpmodel", "\necho 'NVPM ERROR: failed to set mode'; exit 255\n")
    assert guard.restore() == [
        "FAILED to restore power mode 7 (MODE_15W_DESKTOP): NVPM ERROR: failed to set mode", "clocks as they were"
    ]  # fmt: skip
    left = unrestored(cache)
    assert left is not None and left["steps"] == ["power mode 7 (MODE_15W_DESKTOP)"]
    program.write_text(working)
    assert restore_left(files, cache) == ["power mode 7 (MODE_15W_DESKTOP)"]
    assert unrestored(cache) is None and restore_left(files, cache) == []


def test_after_a_reboot_only_the_mode_is_restored(board: FakeBoard, files: BoardFiles, cache: AgentCache) -> None:
    cache.folder("")
    steps = [
        {"undo": ["jetson_clocks", "--restore", "/nowhere/else"], "text": "clocks as they were"},
        {"undo": ["nvpmodel", "-m", "0"], "text": "power mode 0 (MAXN)"},
    ]
    notes = {"since": "2026-01-01T00:00:00Z", "boot": "another", "steps": steps}
    (Path(cache.root) / "restore.json").write_text(json.dumps(notes))
    assert unrestored(cache) == {"since": notes["since"], "steps": ["clocks as they were", "power mode 0 (MAXN)"]}
    assert restore_left(files, cache) == ["power mode 0 (MAXN)"]
    assert board.calls("jetson_clocks") == []
    assert unrestored(cache) is None


def test_modes_by_name_and_number(board: FakeBoard, files: BoardFiles) -> None:
    assert find_mode(files, "MAXN") == find_mode(files, 0) == find_mode(files, "0") == (0, "MAXN")
    with pytest.raises(InputError, match="unknown power mode 'FAST'"):
        find_mode(files, "FAST")
    with pytest.raises(InputError, match="needs a reboot") as caught:
        find_mode(files, "MODE_10W")
    assert "sudo nvpmodel -m 1" in str(caught.value.hint) and board.calls("nvpmodel -m") == []
    (board.root / "usr/sbin/nvpmodel").unlink()
    with pytest.raises(MissingError, match="no nvpmodel"):
        find_mode(files, "MAXN")


def test_sudo_without_a_password(board: FakeBoard, guard: Guard) -> None:
    board.program("usr/bin/sudo", '\n[ "$1" = -n ] && shift\n[ "$1" = -l ] && exit 0\nexec "$@"\n')
    before = board.state()
    guard.switch(0, pin=True)
    assert any(call.endswith("nvpmodel -m 0") for call in board.calls("sudo -n"))
    guard.restore()
    assert board.state() == before
