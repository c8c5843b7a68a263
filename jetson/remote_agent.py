"""Client of the agent on this machine: one command per request, and JSON lines in both directions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from irepdeploy.errors import EXIT_INTERRUPTED

from .agent_archive import AgentArchive
from .agent_failure import agent_error, ended_silently
from .hosts import PYTHON
from .install import CHOOSE_PYTHON, install
from .remote_process import RemoteProcess
from .ssh import Remote
from .ssh_failure import LostConnection

__all__ = ["RemoteAgent"]

Event = dict[str, Any]

_BEAT_S = 10.0
_SILENCE_S = 60
# The second command makes the shell outlive the agent, so that it can report that the agent was killed. ONNX Runtime's
# telemetry would add a thread to the measurement and files to the user's home.
_AGENT = (
    f"{CHOOSE_PYTHON}; ORT_DISABLE_TELEMETRY=1 "
    '"$python" -u "${XDG_CACHE_HOME:-$HOME/.cache}/irepdeploy-agent/agent/$1" "$2"; exit $?'
)


class RemoteAgent:
    """The agent on a board."""

    def __init__(
        self, remote: Remote, archive: AgentArchive, on_event: Callable[[Event], None], *, python: str = PYTHON
    ) -> None:
        self._remote, self._archive, self.on_event, self._python = remote, archive, on_event, python
        self._lock = threading.Lock()
        self._lifeline: RemoteProcess | None = None
        self._stopping = False

    @property
    def host(self) -> str:
        """The board, as the user named it."""
        return self._remote.destination

    def install(self) -> None:
        """Copy the agent to the board, unless the same one is already there."""
        install(self._remote, self._archive, python=self._python)

    def ask(self, verb: str, request: Event | None = None) -> Event:
        """Send a request, which may be repeated if the connection breaks, and return its result."""
        return self._remote.retried(lambda: self._converse(verb, request or {})[0])

    def restore(self) -> Event:
        """Undo the changes that a killed run left behind."""
        return self._converse("restore", {})[0]

    def send(self, files: Sequence[bytes], advance: Callable[[float], None] | None = None) -> list[str]:
        """Copy the files that are missing in the board's cache and return the digests of all files."""
        by_digest = {hashlib.sha256(content).hexdigest(): content for content in files}
        missing = [digest for digest in self.ask("have", {"sha256": list(by_digest)})["missing"] if digest in by_digest]
        total = sum(len(by_digest[digest]) for digest in missing) or 1
        done = 0
        for digest in missing:
            content = by_digest[digest]
            before = done

            def told(size: int, before: int = before) -> None:
                if advance is not None:
                    advance(min(1.0, (before + size) / total))

            request = {"sha256": digest, "size_bytes": len(content)}
            self._remote.retried(partial(self._converse, "put", request, content, told))
            done += len(content)
        return [hashlib.sha256(content).hexdigest() for content in files]

    def fetch(self, job: str, name: str) -> bytes:
        """Fetch a file of a kept job."""
        return self._remote.retried(lambda: self._converse("get", {"job": job, "name": name})[1])

    def bench(self, request: Event) -> Event:
        """Run a bench, which is not repeated if the connection breaks.

        Raises:
            IrepdeployError: The error that the agent raised, or LostConnection; the board restores its settings anyway.
            KeyboardInterrupt: `stop` was called.
        """
        try:
            return self._converse("bench", {**request, "lifeline": {"heartbeat_s": _SILENCE_S}}, lifeline=True)[0]
        except LostConnection as error:
            if self._stopping:
                raise KeyboardInterrupt from None
            raise LostConnection(
                error.what,
                where=self.host,
                hint="the agent stops and restores clocks and power mode; nothing was recorded: measure again",
            ) from None

    def stop(self) -> None:
        """Make the agent stop and restore everything, or abort a copy; may be called from another thread."""
        with self._lock:
            self._stopping = True
            if self._lifeline is None:
                self._remote.stop()
                return
            self._write(self._lifeline, b'{"verb": "stop"}\n')

    def _converse(
        self,
        verb: str,
        request: Event,
        content: bytes = b"",
        told: Callable[[int], None] | None = None,
        *,
        lifeline: bool = False,
    ) -> tuple[Event, bytes]:
        """Send a request and return the value of its result, and the bytes of the attached file, if any."""
        process = self._remote.start(_AGENT, self._python, self._archive.name, verb)
        line = json.dumps(request, allow_nan=False).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line)
            for begin in range(0, len(content), 1 << 18):
                process.stdin.write(content[begin : begin + (1 << 18)])
                process.stdin.flush()
                if told is not None:
                    told(begin + (1 << 18))
            process.stdin.flush()
        with self._alive(process) if lifeline else contextlib.nullcontext():
            if not lifeline:
                process.close_stdin()
            result, error, data = self._listen(process)
        code, text = process.finish()
        if error is not None:
            if self._stopping and error.get("code") == EXIT_INTERRUPTED:
                raise KeyboardInterrupt
            raise agent_error(error, self.host)
        if result is None:
            raise ended_silently(code, text, self.host)
        return result, data

    @contextlib.contextmanager
    def _alive(self, process: RemoteProcess) -> Iterator[None]:
        """Send heartbeats to the agent while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_S):
                with self._lock:
                    self._write(process, b"\n")

        with self._lock:
            self._lifeline = process
            if self._stopping:
                self._write(process, b'{"verb": "stop"}\n')
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with self._lock:
                self._lifeline = None

    @staticmethod
    def _write(process: RemoteProcess, content: bytes) -> None:
        # The reader will report why the process cannot be written to.
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(content)
            process.stdin.flush()

    def _listen(self, process: RemoteProcess) -> tuple[Event | None, Event | None, bytes]:
        result: Event | None = None
        error: Event | None = None
        data = b""
        for line in iter(process.stdout.readline, b""):
            try:
                # Numbers that JSON cannot represent become text.
                event = json.loads(line, parse_constant=str)
                kind = event["event"]
            except (ValueError, TypeError, KeyError, RecursionError):
                # A line printed by a library.
                continue
            if kind == "result" and isinstance(event.get("value"), dict):
                result = event["value"]
            elif kind == "error":
                error = event
            elif kind == "file":
                size = event.get("size_bytes")
                data = process.stdout.read(size) if isinstance(size, int) and size >= 0 else b""
                if hashlib.sha256(data).hexdigest() != event.get("sha256"):
                    raise LostConnection("the file is truncated", where=self.host)
            else:
                self.on_event(event)
        return result, error, data
