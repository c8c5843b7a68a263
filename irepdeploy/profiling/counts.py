"""Parameters and multiply-accumulates, by one convention."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Counts", "count"]


@dataclass(frozen=True)
class Counts:
    """Parameters (alpha and beta included) and MACs of Conv2d and Linear for one input."""

    params: int
    macs: int


def count(model: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Count on one forward pass over zeros (1, *input_shape), of a copy in eval mode: `model` stays as it is.

    A convolution that a block runs through ``torch.nn.functional`` is counted too, since the operators are watched, not
    the modules.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(model).eval()
    parameter = next(model.parameters())
    x = torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)
    counter: Any = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(x)
    # torch counts a multiply-accumulate as two operations.
    return Counts(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)
