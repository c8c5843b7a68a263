"""Overseer: events that stop a run early, and events that do not."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irepdeploy.errors import RunError
from irepdeploy.jetson.agent import overseer as overseer_module
from irepdeploy.jetson.agent.events import EventStream
from irepdeploy.jetson.agent.overseer import Overseer
from irepdeploy.jetson.agent.request import RequestStream


def test_a_desk_that_beats_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(overseer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    read, write = os.pipe()
    overseer = Overseer(EventStream(os.open(os.devnull, os.O_WRONLY)), lifeline=RequestStream(read), heartbeat_s=5.0)
    now[0] = 4.0
    os.write(write, b"\n")
    assert overseer.run([sys.executable, "-c", ""], str(tmp_path), print) == (0, False)
    now[0] = 8.0
    overseer.check()
    now[0] = 9.5
    with pytest.raises(RunError, match="nothing from the desk for 5 s"):
        overseer.check()
    os.close(write)


def test_lines_and_codes(tmp_path: Path) -> None:
    overseer = Overseer(EventStream(os.open(os.devnull, os.O_WRONLY)))
    lines: list[str] = []
    code = "import os, sys; os.write(1, b'one\\ntw\\xffo\\nthree'); os.write(2, b'oops'); sys.exit(7)"
    assert overseer.run([sys.executable, "-c", code], str(tmp_path), lines.append) == (7, False)
    # A line without an end was cut off.
    assert lines == ["one", "tw\N{REPLACEMENT CHARACTER}o"]
    assert (tmp_path / "stderr").read_bytes() == b"oops"
    assert overseer.run([sys.executable, "-c", "import os; os.abort()"], str(tmp_path), print)[0] == -6
    with pytest.raises(RunError, match="cannot start a process: No such file"):
        overseer.run(["/nowhere/program"], str(tmp_path), print)


def test_no_reader(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    events = EventStream(write)
    overseer = Overseer(events)
    events.send("hello")
    with pytest.raises(RunError, match="nobody reads"):
        overseer.run([sys.executable, "-c", ""], str(tmp_path), print)
    os.close(write)


@pytest.mark.parametrize(
    ("end", "error", "what"),
    [
        (lambda write: os.kill(os.getpid(), signal.SIGTERM), RunError, "ended by SIGTERM"),
        (lambda write: os.kill(os.getpid(), signal.SIGHUP), RunError, "ended by SIGHUP"),
        (lambda write: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt, "^$"),
        (lambda write: os.write(write, b'\n{"verb": "stop"}\n'), KeyboardInterrupt, "^$"),
        (os.close, RunError, "the desk is gone"),
    ],
    ids=["SIGTERM", "SIGHUP", "SIGINT", "stop", "lost desk"],
)
def test_what_ends_a_run_ends_its_process(tmp_path: Path, end: Any, error: type[BaseException], what: str) -> None:
    read, write = os.pipe()
    events = EventStream(os.open(os.devnull, os.O_WRONLY))
    overseer = Overseer(events, lifeline=RequestStream(read), heartbeat_s=60.0)
    pids: list[int] = []

    def started(line: str) -> None:
        pids.append(int(line))
        end(write)

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(error, match=what), overseer.watching():
        overseer.run([sys.executable, "-c", code], str(tmp_path), started)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
