"""Input from the desk: a request on one line, then bytes or heartbeats."""

from __future__ import annotations

import json
import os
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["RequestStream", "read_request"]

_LONGEST = 1 << 22


class RequestStream:
    """Reads a file descriptor without reading ahead."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = b""
        self.ended = False

    def line(self) -> bytes:
        """Return the next line without its line break, or the rest at the end of the stream."""
        while b"\n" not in self._buffer and not self.ended:
            if len(self._buffer) > _LONGEST:
                raise InputError("the request is longer than 4 MiB", where="request")
            self.more()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def lines(self) -> list[bytes]:
        """Return the complete lines received so far."""
        *lines, self._buffer = self._buffer.split(b"\n")
        return lines

    def some(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end of the stream."""
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
    """Read the request, a JSON object on the first line; an empty line is an empty request."""
    line = stream.line().strip()
    if not line:
        return {}
    try:
        request = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise InputError("expected a JSON object in one line", where="request")
    return request
