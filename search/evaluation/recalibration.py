"""Batch-normalisation statistics of a network taken anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from irepdeploy.reparam.normalisation import NORMS

__all__ = ["recalibrate"]


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Give every batch normalisation the mean of the statistics of all batches of images, in place.

    Returns:
        The network, in eval mode.
    """
    norms = [module for module in net.modules() if isinstance(module, NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        # None: the mean of all batches, each with the same weight.
        norm.momentum = None
    net.train()
    for images in batches:
        net(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return net.eval()
