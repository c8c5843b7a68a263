"""Pickles of dictionaries of numbers, text and byte arrays, read without running anything that they name.

A pickle is a program that may call whatever it names. Here it names stand-ins only, which record what NumPy would be
given; NumPy itself gets nothing but bytes of a checked length. Anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from irepdeploy.errors import InputError

__all__ = ["read_array_pickle"]

_BYTES = {"u1", "B", "uint8", b"u1", b"B", b"uint8"}


class _ByteArray:
    """What is known of an array of uint8 while it is read."""

    def __init__(self, shape: Any = None, dtype: Any = None, raw: Any = None, columns_first: Any = False) -> None:
        self.shape, self.dtype, self.raw, self.columns_first = shape, dtype, raw, columns_first

    def value(self) -> np.ndarray[Any, Any]:
        shape, raw = self.shape, self.raw
        sizes = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        whole = sizes and isinstance(raw, bytes | bytearray) and len(raw) == math.prod(shape)
        if not whole or getattr(self.dtype, "letter", None) not in _BYTES:
            raise ValueError("an array of another type than uint8, or of another size than it says")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if self.columns_first else "C")


def _stand_ins() -> dict[tuple[str, str], Any]:
    """Fresh ones for each file: a pickle can set attributes of what it is given."""

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


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        # Python 2 wrote bytes where it meant text: they stay bytes.
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which arrays do not need")
        return self._known[module, name]


def read_array_pickle(content: bytes, where: object) -> dict[str, Any]:
    """A pickled dictionary by Python 2 or 3: text keys, and byte arrays as uint8 arrays.

    Args:
        where: the file, for messages.

    Raises:
        InputError: it is damaged, no dictionary, or it names anything that such a dictionary does not need.
    """
    try:
        found = _Unpickler(content).load()
        if not isinstance(found, dict):
            raise ValueError("it holds no dictionary")
        return {_text(key): _plain(value) for key, value in found.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"not a pickle of arrays: {error}", where=where, hint="is the file whole?") from error


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _ByteArray):
        return value.value()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, int | float | str | bytes):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")
