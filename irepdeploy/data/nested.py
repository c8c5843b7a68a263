"""Tensors inside tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["mapped"]


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to the tensors of a value: a tensor, or tuples, lists and dictionaries of some."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [mapped(function, item) for item in value]
        # A named tuple takes its fields one by one.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
