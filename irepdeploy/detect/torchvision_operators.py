"""torchvision's operators, where it can be imported beside this torch."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from irepdeploy.detect.highest import is_plain

__all__ = ["torchvision_operators"]

# Of others, such as bfloat16, it has no operators on every device.
_TYPES = (torch.float32, torch.float64)


def torchvision_operators(example: Tensor) -> Any | None:
    """Return ``torchvision.ops``, or None if it cannot be imported or `example` is not a tensor of a plain run.

    While a graph is traced or compiled, or costs are counted, plain torch is used, of which every operator exports.
    """
    return _imported() if is_plain(example) and example.dtype in _TYPES else None


@functools.cache
def _imported() -> Any | None:
    try:
        import torchvision.ops
    except (ImportError, RuntimeError, OSError):
        # One that was built for another torch raises any of them.
        return None
    return torchvision.ops
