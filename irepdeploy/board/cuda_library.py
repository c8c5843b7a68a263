"""Find the CUDA runtime library, libcudart, wherever pip, the toolkit or JetPack installed it."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import glob
import os
import re
import sys
from typing import Any, Iterator, List, Tuple

__all__ = ["cuda_libraries"]

# Names for the loader to search: in its cache, in LD_LIBRARY_PATH, and among the libraries already loaded in this
# process, by torch for example. The unversioned name exists only where the headers are installed.
_NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2", "libcudart.so")
# Places that the loader does not search: pip's wheels (nvidia-cuda-runtime for CUDA 13; -cu12 and -cu11), below each
# entry of sys.path, and toolkits unpacked without ldconfig, below the root.
_IN_PACKAGES = "nvidia/*/lib/libcudart.so.*"
_IN_TOOLKITS = ("/usr/local/cuda*/lib64/libcudart.so.*", "/usr/local/cuda*/targets/*/lib/libcudart.so.*")


def cuda_libraries() -> Iterator[Any]:
    """Yield each libcudart that can be loaded: first those that the loader finds, then the others, newest first.

    Several are needed because a runtime that is newer than the driver does not work, while an older one may.
    """
    found = ctypes.util.find_library("cudart")
    loaded = set()
    for name in (*_NAMES, *((found,) if found else ()), *_files()):
        if os.path.basename(name) in loaded:
            continue
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            loaded.add(os.path.basename(name))
            yield library


def _files() -> List[str]:
    patterns = [os.path.join(glob.escape(folder), _IN_PACKAGES) for folder in sys.path if folder]
    found = [path for pattern in (*patterns, *_IN_TOOLKITS) for path in sorted(glob.glob(pattern))]
    # The sort is stable: among equal versions the first folder wins, as for an import.
    return sorted(dict.fromkeys(found), key=_version, reverse=True)


def _version(path: str) -> Tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.path.basename(path).partition(".so")[2]))
