"""Recalibration of batch-normalization statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from irepdeploy.reparam.normalization import NORMS

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set the statistics of every batch normalization to their mean over all batches of images, in place.

    Returns:
        The network, in eval mode.
    """
    norms = [module for module in net.modules() if isinstance(module, NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None averages all batches with equal weight.
        norm.momentum = None
    net.train()
    for images in batches:
        net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()
