"""The highest values and where they are, in an order that does not depend on who computes it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["highest", "is_plain"]


def is_plain(example: object) -> bool:
    """Return whether a tensor is one of a plain run: no graph is traced or compiled, and it has values."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return type(example) is Tensor and not traced and not example.is_meta


def highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest values along the last axis and their indices, of equal ones the first.

    That is the order of ONNX's TopK; torch leaves the order of equal values open, and they decide which box suppresses
    which. Files of int8 have many. Which ones of the lowest value are among them stays open.
    """
    found, index = values.topk(count)
    if not is_plain(values):
        return found, index
    order = index.sort().indices
    order = order.gather(-1, found.gather(-1, order).sort(stable=True, descending=True).indices)
    return found.gather(-1, order), index.gather(-1, order)
