"""Random batch-normalisation statistics, for networks that were never trained.

Fresh statistics (mean 0, variance 1, gamma 1, beta 0) make every batch normalisation nearly an identity, so that a
wrong fuse would pass any comparison.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["randomize_statistics"]


@torch.no_grad()
def randomize_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch normalisation of `model` seeded random gamma, beta, mean and variance, in place.

    gamma ~ U(0.5, 1.5), beta ~ N(0, 0.2), mean ~ N(0, 0.2), variance ~ U(0.5, 1.5). The same numbers in every dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for name, low, high in (("weight", 0.5, 1.5), ("running_var", 0.5, 1.5)):
            tensor = getattr(module, name)
            if tensor is not None:
                tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
        for name in ("bias", "running_mean"):
            tensor = getattr(module, name)
            if tensor is not None:
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return model
