"""The exponential moving average of a network's weights in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["averaged"]

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(net: nn.Module, decay: float) -> AveragedModel:
    """`net` with an average beside it: call ``update_parameters(net)`` after each step, read ``.module``.

    Batch-normalisation statistics are averaged like weights, so that they belong to them. In the first steps less is
    kept, min(decay, (1 + n) / (10 + n)): the average does not start from the initial weights.
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
