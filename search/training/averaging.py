"""Exponential moving average of a network's weights during training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["averaged"]

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(net: nn.Module, decay: float) -> AveragedModel:
    """Return a moving average of `net`: call ``update_parameters(net)`` after each step, and read ``.module``.

    Batch-normalization statistics are averaged like the weights, so that they stay consistent. The decay of step n is
    min(decay, (1 + n) / (10 + n)), so that the initial weights are soon forgotten.
    """

    def average(kept: Tensors, new: Tensors, steps: Tensor | int) -> None:
        done = int(steps)
        by_kind: dict[bool, tuple[list[Tensor], list[Tensor]]] = {}
        for old, value in zip(kept, new, strict=True):
            pair = by_kind.setdefault(old.is_floating_point(), ([], []))
            pair[0].append(old)
            pair[1].append(value)
        if True in by_kind:
            get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(*by_kind[True], steps)
        for old, value in zip(*by_kind.get(False, ([], [])), strict=True):
            # Counters are not averaged.
            old.copy_(value)

    with torch.no_grad():
        return AveragedModel(net, multi_avg_fn=average, use_buffers=True)
