"""Channels last (NHWC), the memory format in which convolutions run about three times faster on a CPU."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["channels_last"]

_T = TypeVar("_T", Tensor, nn.Module)


def channels_last(value: _T) -> _T:
    """Convert a module in place, or a tensor (N, C, H, W) with a copy if needed, to channels last."""
    if isinstance(value, Tensor):
        return value.contiguous(memory_format=torch.channels_last)
    value.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return value
