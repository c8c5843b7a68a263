"""Report running out of memory as such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from irepdeploy.errors import RunError
from irepdeploy.runtime.memory import is_out_of_memory

__all__ = ["memory_guard"]


@contextmanager
def memory_guard(during: str, device: torch.device, *keys: str) -> Iterator[None]:
    """Report where memory ran out, and which keys of the recipe reduce its use."""
    try:
        yield
    except Exception as error:  # torch and Python say in several ways that memory ran out
        if not is_out_of_memory(error):
            raise
        hint = f"a smaller {' or '.join(keys)}; the last good state is kept"
        raise RunError(f"out of memory in {during}", where=str(device), hint=hint) from error
