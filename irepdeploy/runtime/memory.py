"""Memory: sizes in words, and running out of it."""

from __future__ import annotations

import re
import sys

from irepdeploy.errors import InputError

__all__ = ["is_out_of_memory", "parse_size", "size_text"]

_TEXTS = ("not enough memory", "can't allocate memory", "out of memory")
_UNITS = {"M": 10**6, "G": 10**9, "T": 10**12, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in Python or in torch on any device."""
    if isinstance(error, MemoryError):
        return True
    # Only a process that has torch can raise torch's.
    torch_error = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    if torch_error is not None and isinstance(error, torch_error):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def parse_size(text: str) -> int:
    """Bytes that ``8GB`` (10^9 each), ``8GiB`` (2^30 each) or ``512 MB`` stand for.

    Raises:
        InputError: it is no size, or nothing.
    """
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([MGT]I?)B?\s*", text.upper(), re.ASCII)
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2]])
    if size <= 0:
        raise InputError(f"{text!r} is no size of memory", hint="8GB (10^9 bytes), 8GiB (2^30 bytes) or 512MB")
    return size


def size_text(size: int) -> str:
    """A size as people read it: ``71 MB``, ``1.24 GB`` (10^9 bytes)."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(size) >= factor:
            return f"{size / factor:.3g} {unit}" if abs(size) < 999.5 * factor else f"{size / factor:.0f} {unit}"
    return f"{size} bytes"
