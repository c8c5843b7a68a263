"""Objects that a torch file may contain besides weights, numbers and text: script arguments and numpy scalars."""

from __future__ import annotations

from argparse import Namespace
from pickle import UnpicklingError
from typing import Any

import numpy as np

__all__ = ["PLAIN_GLOBALS"]

_KINDS = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.float16,
          np.float32, np.float64)  # fmt: skip


def _scalar(dtype: Any, content: bytes) -> Any:
    """Return a numpy scalar from its bytes."""
    if not isinstance(dtype, np.dtype) or dtype.type not in _KINDS or len(content) != dtype.itemsize:
        raise UnpicklingError("not a number")
    return np.frombuffer(content, dtype)[0]


# For torch.serialization.safe_globals. Training scripts save their arguments and best score with the weights.
PLAIN_GLOBALS: list[Any] = [
    Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in _KINDS),
    # Name of the module before numpy 2, and since.
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
