"""Memory of this process: sizes, peak usage, reuse of freed memory, and out-of-memory errors."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from irepdeploy.errors import InputError

__all__ = ["is_out_of_memory", "keep_freed_memory", "parse_size", "peak_bytes", "reset_peak"]

_TEXTS = ("not enough memory", "can't allocate memory", "out of memory")
_UNITS = {"M": 10**6, "G": 10**9, "T": 10**12, "MI": 2**20, "GI": 2**30, "TI": 2**40}

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# By default glibc raises the first two thresholds dynamically, up to these values.
_DEFAULTS = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20, _MMAP_MAX: 65536}
_KEPT = {**_DEFAULTS, _TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is a failed allocation, in Python or in torch on any device."""
    if isinstance(error, MemoryError):
        return True
    # torch's own error can only occur if torch was imported.
    torch_error = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    if torch_error is not None and isinstance(error, torch_error):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)


def parse_size(text: str) -> int:
    """Convert a memory size such as ``8GB`` (10^9 bytes each), ``8GiB`` (2^30 bytes each) or ``512 MB`` to bytes.

    Raises:
        InputError: `text` is not a memory size.
    """
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([MGT]I?)B?\s*", text.upper(), re.ASCII)
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2]])
    if size <= 0:
        raise InputError(
            f"expected a memory size such as 8GB, got {text!r}", hint="8GB (10^9 bytes), 8GiB (2^30 bytes) or 512MB"
        )
    return size


def keep_freed_memory(keep: bool = True) -> bool:
    """Keep freed memory in this process, or restore the default, and return whether the C library supports it.

    By default glibc maps every block of 32 MiB or more when it is allocated and unmaps it when it is freed, so that
    each feature map of that size causes a page fault every 4 KiB, which costs ten times as much as adding two maps.
    If memory is kept, the same pages are reused, and the process stays at its peak size. Only glibc supports this.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    answers = [library.mallopt(*setting) for setting in (_KEPT if keep else _DEFAULTS).items()]
    if not keep and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    return all(answers)


def reset_peak() -> int | None:
    """Reset the peak of resident memory and return the current amount in bytes, or None on systems other than Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def peak_bytes() -> int:
    """Return the peak of resident memory in bytes since `reset_peak`, which must have returned a number."""
    return _status("VmHWM")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
