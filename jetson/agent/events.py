"""The agent's events: JSON lines, one each, that the desk reads.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import threading
import time
from typing import Any

__all__ = ["PROTOCOL", "EventStream"]

# Raise it with every change that a desk of before would misread.
PROTOCOL = 1

# Of a pipe that select calls writable so much can be written without blocking.
_CHUNK = 2048


class EventStream:
    """Writes events to a file descriptor.

    Args:
        limit_s: how long a reader may leave a full pipe full before it counts as gone; None waits for ever.
    """

    def __init__(self, descriptor: int, *, limit_s: float | None = None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.limit_s = limit_s
        self.gone = False

    def send(self, event: str, **fields: Any) -> None:
        """Write one event. Once the reader is gone nothing is written, and `gone` says so."""
        line = json.dumps({"event": event, **_finite(fields)}, allow_nan=False, separators=(",", ":")) + "\n"
        self.write(line.encode("ascii"))

    def progress(self, stage: str, step: str, *, model: str | None = None, share: float | None = None) -> None:
        """Say what is being done."""
        elapsed = round(time.monotonic() - self._began, 1)
        self.send("progress", stage=stage, model=model, step=step, share=share, elapsed_s=elapsed)

    def log(self, text: str, *, level: str = "info", model: str | None = None) -> None:
        """One line for people."""
        self.send("log", level=level, text=" ".join(text.split()), model=model)

    def write(self, content: bytes) -> None:
        """Raw bytes, after the event that announces them."""
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


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_finite(item) for item in value]
    return value
