"""Functions for tensors inside tuples, lists and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from irepdeploy.detect.target import Targets

__all__ = ["mapped"]


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to each tensor or `Targets` in a value of nested tuples, lists and dictionaries."""
    # Targets can be moved, indexed and split like a tensor of labels.
    if isinstance(value, Tensor | Targets):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [mapped(function, item) for item in value]
        # A named tuple takes its fields as separate arguments.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
