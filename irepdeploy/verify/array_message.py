"""Messages between processes: a JSON header and arrays as raw bytes, without pickle, which could run code."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irepdeploy.limits import memory_bytes

__all__ = ["ArrayMessage", "BrokenMessageError"]

Array = np.ndarray[Any, Any]

_LONGEST = 64 << 20
_DTYPES = {
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
}  # fmt: skip


class BrokenMessageError(Exception):
    """The other side closed the connection, or sent something other than a message."""


@dataclass(frozen=True)
class ArrayMessage:
    """A message of JSON values and named arrays."""

    values: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def send(self, to: socket.socket, deadline: float | None = None) -> None:
        """Send the message.

        Args:
            to: The connection.
            deadline: Latest time of `time.monotonic` in seconds, or None for no limit.

        Raises:
            TimeoutError: The deadline has passed.
        """
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        described = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
        header = json.dumps([self.values, described]).encode()
        _limit(to, deadline)
        to.sendall(len(header).to_bytes(4, "little") + header)
        for array in arrays.values():
            if array.size:
                _limit(to, deadline)
                to.sendall(array.reshape(-1).view(np.uint8).data)

    @classmethod
    def receive(cls, source: socket.socket, deadline: float | None = None) -> ArrayMessage:
        """Wait for the next message.

        Args:
            source: The connection.
            deadline: Latest time of `time.monotonic` in seconds, or None for no limit.

        Raises:
            TimeoutError: The deadline has passed.
            BrokenMessageError: The connection was closed, or the data is not a message.
        """
        length = int.from_bytes(_bytes(source, 4, deadline), "little")
        if length > _LONGEST:
            raise BrokenMessageError(f"a header of {length} bytes")
        try:
            values, described = json.loads(_bytes(source, length, deadline))
            shapes = {str(name): (str(dtype), [int(size) for size in shape]) for name, dtype, shape in described}
        except (RecursionError, TypeError, ValueError) as error:
            raise BrokenMessageError("not a header") from error
        if not all(dtype in _DTYPES and all(size >= 0 for size in shape) for dtype, shape in shapes.values()):
            raise BrokenMessageError("not an array")
        if sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in shapes.values()) > memory_bytes():
            raise BrokenMessageError("more arrays than memory")
        arrays = {}
        for name, (dtype, shape) in shapes.items():
            arrays[name] = np.empty(shape, dtype)
            if arrays[name].size:
                _fill(source, arrays[name].reshape(-1).view(np.uint8), deadline)
        return cls(values, arrays)


def _bytes(source: socket.socket, count: int, deadline: float | None) -> bytes:
    content = np.empty(count, np.uint8)
    _fill(source, content, deadline)
    return content.tobytes()


def _fill(source: socket.socket, content: Array, deadline: float | None) -> None:
    left = content.data
    while left:
        _limit(source, deadline)
        count = source.recv_into(left)
        if not count:
            raise BrokenMessageError("the connection is closed")
        left = left[count:]


def _limit(connection: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        return connection.settimeout(None)
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
