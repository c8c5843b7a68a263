"""What the desk sends: a request in one line, then bytes, or signs of life.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

import json
import os
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["RequestStream", "read_request"]

_LONGEST = 1 << 22


class RequestStream:
    """Reads a file descriptor without taking more than it was asked for out of sight."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = b""
        self.ended = False

    def line(self) -> bytes:
        """The next line without its end; what is there at the end of the stream."""
        while b"\n" not in self._buffer and not self.ended:
            if len(self._buffer) > _LONGEST:
                raise InputError("a request longer than 4 MiB", where="request")
            self.more()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def lines(self) -> list[bytes]:
        """The whole lines that have come so far."""
        *lines, self._buffer = self._buffer.split(b"\n")
        return lines

    def some(self, size: int) -> bytes:
        """At most `size` bytes; none at the end of the stream."""
        if not self._buffer and not self.ended:
            self.more()
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def more(self) -> None:
        """Wait for more bytes."""
        content = os.read(self.descriptor, 1 << 16)
        self._buffer += content
        self.ended = not content


def read_request(stream: RequestStream) -> dict[str, Any]:
    """The request: a JSON object in the first line; nothing at all is an empty one.

    Raises:
        InputError: it is something else.
    """
    line = stream.line().strip()
    if not line:
        return {}
    try:
        request = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise InputError("not a request: no JSON object in one line", where="request")
    return request
