"""The C library's allocator: whether memory that is freed goes back to the system at once.

glibc maps every block of 32 MiB and more anew and unmaps it when it is freed, so that each feature map of that size is
paid for with a page fault every 4 KiB: ten times the cost of adding two maps. Kept, the same pages serve the next one.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# What each is set to. Left alone, glibc raises the first two up to these values by itself.
_DEFAULTS = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20, _MMAP_MAX: 65536}
_KEPT = {**_DEFAULTS, _TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


def keep_freed_memory(keep: bool = True) -> bool:
    """Keep freed memory in this process, or let it go again; whether the C library can be told so (glibc can).

    The process then stays as large as it was at its largest.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    answers = [library.mallopt(*setting) for setting in (_KEPT if keep else _DEFAULTS).items()]
    if not keep and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    return all(answers)
