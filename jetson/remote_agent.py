"""RemoteAgent: the board's agent as the desk talks to it, in lines of JSON over one command each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from irepdeploy.errors import EXIT_INTERRUPTED

from .agent_failure import agent_error, ended_silently
from .install import Archive, install
from .remote_process import RemoteProcess
from .ssh import Remote
from .ssh_failure import LostConnection

__all__ = ["RemoteAgent"]

Event = dict[str, Any]

_BEAT_S = 10.0
_SILENCE_S = 60
# Not the last command of its shell, which so lives on to say that the agent was killed. ONNX Runtime's telemetry would
# be a thread beside what is measured, and files in the user's home.
_AGENT = 'ORT_DISABLE_TELEMETRY=1 python3 -u "${XDG_CACHE_HOME:-$HOME/.cache}/irepdeploy-agent/agent/$1" "$2"; exit $?'


class RemoteAgent:
    """Talks to the agent on a machine.

    Args:
        remote: connected.
        archive: the agent; `install` brings it there.
        on_event: told everything that the agent says before its result, as it says it.
    """

    def __init__(self, remote: Remote, archive: Archive, on_event: Callable[[Event], None]) -> None:
        self._remote, self._archive, self.on_event = remote, archive, on_event
        self._lock = threading.Lock()
        self._lifeline: RemoteProcess | None = None
        self._stopping = False

    @property
    def host(self) -> str:
        """What the user calls the machine."""
        return self._remote.destination

    def install(self) -> None:
        """Bring the agent to the board, unless the very same lies there.

        Raises:
            MissingError: there is no Python 3.8 or later.
            RunError: the disk is full, or the connection broke too often.
        """
        install(self._remote, self._archive)

    def ask(self, verb: str, request: Event | None = None) -> Event:
        """One question that may be asked twice, and its answer.

        Raises:
            IrepdeployError: what the agent raised, or LostConnection.
        """
        return self._remote.retried(lambda: self._converse(verb, request or {})[0])

    def restore(self) -> Event:
        """Put back what a run that was killed has left switched."""
        return self._converse("restore", {})[0]

    def clean(self) -> Event:
        """Remove all that is cached there."""
        return self.ask("clean", {"all": True})

    def send(self, files: Sequence[bytes], advance: Callable[[float], None] | None = None) -> list[str]:
        """Bring files into the board's cache, those that are not there yet, and return the digests of all.

        Args:
            advance: told the share that is done, 0 to 1.
        """
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
            self._remote.retried(
                lambda request=request, content=content, told=told: self._converse(  # type: ignore[misc]
                    "put", request, content, told
                )
            )
            done += len(content)
        return [hashlib.sha256(content).hexdigest() for content in files]

    def fetch(self, job: str, name: str) -> bytes:
        """A file of a job that was kept.

        Raises:
            RunError: what came is not what its digest says.
        """
        return self._remote.retried(lambda: self._converse("get", {"job": job, "name": name})[1])

    def bench(self, request: Event) -> Event:
        """Measure, once: what a broken connection ends is not repeated.

        Raises:
            IrepdeployError: what the agent raised, or LostConnection; the board restores itself in every case.
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
                hint="the agent there ends the work and puts clocks and mode back; nothing was recorded: measure again",
            ) from None

    def stop(self) -> None:
        """From another thread: let the agent end its work and put everything back; a copy is just cut off."""
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
        """The value of the result, and the bytes of a file if one came with it."""
        process = self._remote.start(_AGENT, self._archive.name, verb)
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
        """Tell the agent now and then that somebody waits for it."""
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
        # Whoever reads its end finds out why nothing can be written.
        with contextlib.suppress(OSError, ValueError):
            process.stdin.write(content)
            process.stdin.flush()

    def _listen(self, process: RemoteProcess) -> tuple[Event | None, Event | None, bytes]:
        result: Event | None = None
        error: Event | None = None
        data = b""
        for line in iter(process.stdout.readline, b""):
            try:
                # What JSON has no number for comes as its name.
                event = json.loads(line, parse_constant=str)
                kind = event["event"]
            except (ValueError, TypeError, KeyError, RecursionError):
                # A library that prints where it should not.
                continue
            if kind == "result" and isinstance(event.get("value"), dict):
                result = event["value"]
            elif kind == "error":
                error = event
            elif kind == "file":
                size = event.get("size_bytes")
                data = process.stdout.read(size) if isinstance(size, int) and size >= 0 else b""
                if hashlib.sha256(data).hexdigest() != event.get("sha256"):
                    raise LostConnection("a file came cut short", where=self.host)
            else:
                self.on_event(event)
        return result, error, data
