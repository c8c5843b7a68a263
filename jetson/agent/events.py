"""Events of the agent: one JSON line each, read by the desk."""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
import time
from typing import Any

from irepdeploy.board.json_values import json_safe

__all__ = ["PROTOCOL", "EventStream"]

# Increase this with every change that an older desk would misread.
PROTOCOL = 1

# Bytes that can be written without blocking to a pipe that select reports as writable.
_CHUNK = 2048


class EventStream:
    """Writes events to a file descriptor.

    Args:
        descriptor: The file descriptor.
        limit_s: Seconds that a reader may leave the pipe full before it counts as gone; None waits forever.
    """

    def __init__(self, descriptor: int, *, limit_s: float | None = None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.limit_s = limit_s
        self.gone = False

    def send(self, event: str, **fields: Any) -> None:
        """Write one event. Once the reader is gone, `gone` is set and nothing is written."""
        line = json.dumps({"event": event, **json_safe(fields)}, allow_nan=False, separators=(",", ":")) + "\n"
        self.write(line.encode("ascii"))

    def progress(self, stage: str, step: str, *, model: str | None = None, share: float | None = None) -> None:
        """Report progress."""
        elapsed = round(time.monotonic() - self._began, 1)
        self.send("progress", stage=stage, model=model, step=step, share=share, elapsed_s=elapsed)

    def log(self, text: str, *, level: str = "info", model: str | None = None) -> None:
        """Log one line for the user."""
        self.send("log", level=level, text=" ".join(text.split()), model=model)

    def write(self, content: bytes) -> None:
        """Write raw bytes, after the event that announces them."""
        with self._lock:
            rest = memoryview(content)
            while rest and not self.gone:
                if self._is_stuck():
                    self.gone = True
                    return
                try:
                    rest = rest[os.write(self._descriptor, rest[:_CHUNK]) :]
                except (BrokenPipeError, ConnectionError):
                    self.gone = True

    def _is_stuck(self) -> bool:
        if self.limit_s is None:
            return False
        with contextlib.suppress(ValueError, OSError):
            return not select.select([], [self._descriptor], [], self.limit_s)[1]
        return False
