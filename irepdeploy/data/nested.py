"""Tensors inside tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from irepdeploy.detect.target import Targets

__all__ = ["mapped"]


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the tensors of a value: a tensor, or tuples, lists, dictionaries of some, or `Targets`."""
    # Targets are moved, indexed and split as a tensor of labels is.
    if isinstance(value, Tensor | Targets):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [mapped(function, item) for item in value]
        # A named tuple takes its fields one by one.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
