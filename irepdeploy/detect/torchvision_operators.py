"""Access to torchvision's operators, if it can be imported together with the installed torch."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from irepdeploy.detect.highest import is_plain

__all__ = ["torchvision_operators"]

# For other types, such as bfloat16, torchvision lacks operators on some devices.
_TYPES = (torch.float32, torch.float64)


def torchvision_operators(example: Tensor) -> Any | None:
    """Return ``torchvision.ops``, or None if it cannot be imported or must not be used for a tensor like `example`.

    While a graph is traced or compiled, or costs are counted, plain torch is used instead, because all its operators
    can be exported.
    """
    return _imported() if is_plain(example) and example.dtype in _TYPES else None


@functools.cache
def _imported() -> Any | None:
    try:
        import torchvision.ops
    except (ImportError, RuntimeError, OSError):
        # A torchvision built for another version of torch can raise any of these.
        return None
    return torchvision.ops
