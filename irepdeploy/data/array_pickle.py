"""Read pickled dictionaries of numbers, text and uint8 arrays without running any code that they refer to.

A pickle is a program that may call anything it names. Here, every permitted name resolves to a stand-in that records
the arguments NumPy would receive, and any other name is refused. NumPy itself receives only bytes of a verified length.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from irepdeploy.errors import InputError, one_line

__all__ = ["read_array_pickle"]

_BYTES = {"u1", "B", "uint8", b"u1", b"B", b"uint8"}


class _ByteArray:
    """The arguments of a uint8 array, collected while its pickle is read."""

    def __init__(self, shape: Any = None, dtype: Any = None, raw: Any = None, columns_first: Any = False) -> None:
        self.shape, self.dtype, self.raw, self.columns_first = shape, dtype, raw, columns_first

    def value(self) -> np.ndarray[Any, Any]:
        shape, raw = self.shape, self.raw
        sizes = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        whole = sizes and isinstance(raw, bytes | bytearray) and len(raw) == math.prod(shape)
        if not whole or getattr(self.dtype, "letter", None) not in _BYTES:
            raise ValueError("expected a uint8 array of the declared size")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if self.columns_first else "C")


def _stand_ins() -> dict[tuple[str, str], Any]:
    """Return new stand-ins for each file, because a pickle can set attributes of the objects it receives."""

    class Array(_ByteArray):
        def __setstate__(self, state: Any) -> None:
            _, self.shape, self.dtype, self.columns_first, self.raw = state

    class ArrayType:
        pass

    class DataType:
        def __init__(self, letter: Any, *unused: Any) -> None:
            self.letter = letter

        def __setstate__(self, state: Any) -> None:
            pass

    def reconstruct(subtype: Any, shape: Any, letter: Any) -> Array:
        return Array()

    def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _ByteArray:
        return Array(shape, dtype, raw, order == "F")

    def encode(text: str, coding: str) -> bytes:
        return str(text).encode("latin-1")

    found: dict[tuple[str, str], Any] = {("_codecs", "encode"): encode}
    for package in ("numpy.core", "numpy._core"):
        found[f"{package}.multiarray", "_reconstruct"] = reconstruct
        found[f"{package}.numeric", "_frombuffer"] = from_buffer
    found["numpy", "ndarray"] = ArrayType
    found["numpy", "dtype"] = DataType
    return found


# Use the unpickler written in Python, because the C implementation allocates gigabytes for a large index in ten bytes.
class _Unpickler(pickle._Unpickler):
    def __init__(self, content: bytes) -> None:
        # Python 2 pickled text as bytes; keep it as bytes.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"refusing {module}.{name}, which no array needs")
        return self._known[module, name]


def read_array_pickle(content: bytes, where: object) -> dict[str, Any]:
    """Read a dictionary of uint8 arrays pickled by Python 2 or 3.

    Args:
        content: Content of the file.
        where: Name of the file, for error messages.

    Raises:
        InputError: The content is damaged, or contains anything else.
    """
    try:
        found = _Unpickler(content).load()
        if not isinstance(found, dict):
            raise ValueError(f"expected a dictionary, got {type(found).__name__}")
        # A list may contain another one many times, and thus grow without bounds.
        left = iter(range(len(content)))
        return {_text(key): _plain(value, left) for key, value in found.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"not a pickle of arrays: {one_line(error)}", where=where, hint="the file may be truncated"
        ) from error


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _plain(value: Any, left: Iterator[int]) -> Any:
    if next(left, None) is None:
        raise ValueError("more values than bytes")
    if isinstance(value, _ByteArray):
        return value.value()
    if isinstance(value, list | tuple):
        return [_plain(item, left) for item in value]
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    raise ValueError(f"unexpected {type(value).__name__}")
