"""Run processes and watch for everything that may end the run early.

The overseer forwards what a process prints, samples the board, and kills the process with all its children on a signal
or when the desk is gone. Measurements run in a separate process, so that none of this disturbs them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from irepdeploy.board.lifetime import end_with_parent
from irepdeploy.errors import RunError

from .events import EventStream
from .request import RequestStream

__all__ = ["Overseer"]

_TICK_S = 0.1
_PROGRESS_S = 1.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Overseer:
    """Runs one process after another.

    Args:
        events: Stream of events, whose reader may exit.
        lifeline: Standard input, which ends when the desk exits; None without a lifeline.
        heartbeat_s: Seconds after which a silent lifeline counts as cut; None if it has no heartbeat.
        on_tick: Function called about ten times per second.
    """

    def __init__(
        self,
        events: EventStream,
        *,
        lifeline: RequestStream | None = None,
        heartbeat_s: float | None = None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._events, self._lifeline, self._heartbeat_s = events, lifeline, heartbeat_s
        self.on_tick = on_tick
        self._heard = time.monotonic()
        self._signals: list[int] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record signals instead of exiting on them while there is something to restore."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self._signals.append(number)

    def check(self) -> None:
        """Raise KeyboardInterrupt if the user stopped the run, or RunError if something else did."""
        if signal.SIGINT in self._signals:
            raise KeyboardInterrupt
        if self._signals:
            raise RunError(f"ended by {signal.Signals(self._signals[0]).name}")
        if self._events.gone:
            raise RunError("the connection is lost: nobody reads the events")
        if self._lifeline is None:
            return
        if self._lifeline.ended:
            raise RunError("the connection is lost: the desk is gone")
        if self._heartbeat_s is not None and time.monotonic() - self._heard > self._heartbeat_s:
            raise RunError(f"the connection is lost: nothing from the desk for {self._heartbeat_s:g} s")

    def run(
        self,
        command: Sequence[str],
        folder: str,
        on_line: Callable[[str], None],
        *,
        progress: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
    ) -> tuple[int, bool]:
        """Run a process to its end, in a folder where its stderr is written to a file.

        Returns:
            The exit code, and whether the process was killed for exceeding the timeout.

        Raises:
            KeyboardInterrupt: As in `check`, after the process and its children have ended.
            RunError: As in `check`, or the process cannot be started.
        """
        self.check()
        with open(os.path.join(folder, "stderr"), "wb") as stderr:
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd=folder,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
            except OSError as error:
                raise RunError(f"cannot start a process: {error.strerror}", where=command[0]) from error
        try:
            late = self._wait(process, on_line, progress, timeout_s)
            if not late:
                process.wait()
            return (process.returncode, False) if not late else (-signal.SIGKILL, True)
        finally:
            _end(process)

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        on_line: Callable[[str], None],
        progress: Callable[[], None],
        timeout_s: float | None,
    ) -> bool:
        assert process.stdout is not None
        began = told = time.monotonic()
        rest, output = b"", process.stdout.fileno()
        while True:
            self._listen([output])
            now = time.monotonic()
            if timeout_s is not None and now - began > timeout_s:
                return True
            if now - told > _PROGRESS_S:
                told = now
                progress()
            if select.select([output], [], [], 0)[0]:
                content = os.read(output, 1 << 16)
                if not content:
                    return False
                *lines, rest = (rest + content).split(b"\n")
                for line in lines:
                    on_line(line.decode("utf-8", "replace"))

    def _listen(self, descriptors: list[int]) -> None:
        """Wait briefly, and check everything that may stop the run."""
        lifeline = self._lifeline
        if lifeline is not None and not lifeline.ended:
            descriptors = [*descriptors, lifeline.descriptor]
        ready = select.select(descriptors, [], [], _TICK_S)[0]
        if lifeline is not None and lifeline.descriptor in ready:
            lifeline.more()
            self._heard = time.monotonic()
            if any(_is_stop(line) for line in lifeline.lines()):
                self._signals.insert(0, signal.SIGINT)
        self.on_tick()
        self.check()


def _is_stop(line: bytes) -> bool:
    try:
        order = json.loads(line.decode("utf-8", "replace")) if line.strip() else None
    except ValueError:
        return False
    return isinstance(order, dict) and order.get("verb") == "stop"


def _end(process: Any) -> None:
    # Kill its children too: trtexec would keep running and disturb the next measurement.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
