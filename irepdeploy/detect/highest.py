"""Top-k selection with an order that does not depend on the runtime."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["highest", "is_plain"]


def is_plain(example: object) -> bool:
    """Return whether a tensor has values and belongs to a normal run, in which no graph is traced or compiled."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return type(example) is Tensor and not traced and not example.is_meta


def highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest values along the last axis and their indices, with equal values in index order.

    This is the order of ONNX's TopK. Torch does not define the order of equal values, which are frequent in int8 files
    and decide which box suppresses which. It remains undefined which of the values equal to the lowest are included.
    """
    found, index = values.topk(count)
    if not is_plain(values):
        return found, index
    order = index.sort().indices
    order = order.gather(-1, found.gather(-1, order).sort(stable=True, descending=True).indices)
    return found.gather(-1, order), index.gather(-1, order)
