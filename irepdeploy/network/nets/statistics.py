"""Random batch-normalization statistics for networks that were never trained.

Initial statistics (mean 0, variance 1, gamma 1, beta 0) make every batch normalization nearly an identity, so that a
wrong fuse would pass any comparison. For deep networks random statistics are not enough: the signal of the first layers
is lost on the way (the logits of a random AmoebaNet-A differ by 1e-7 between images), so that a wrong stem would pass.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["randomize_statistics", "settle_statistics"]

_BATCH = 8


@torch.no_grad()
def randomize_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set gamma, beta, mean and variance of every batch normalization to seeded random values, in place.

    Values are drawn in float64 from gamma ~ U(0.5, 1.5), beta ~ N(0, 0.2), mean ~ N(0, 0.2) and
    variance ~ U(0.5, 1.5), where 0.2 is the standard deviation, so that they are the same in every dtype.
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


@torch.no_grad()
def settle_statistics(model: nn.Module, input_shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Set the running statistics of every batch normalization to the mean and variance of its input, in place.

    The input of the network is one batch of seeded normal values (8, *input_shape). Gamma, beta and the train or eval
    mode do not change. The variance of a channel is at least the mean variance of its layer, so that no channel is
    amplified. Even so, rounding errors grow in a deep network: in float32 to 1e-4 of the outputs of DARTS.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    modes = {module: module.training for module in model.modules()}
    momenta = [module.momentum for module in norms]
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randn(_BATCH, *input_shape, generator=generator).to(like)
    try:
        for module in norms:
            module.momentum = 1.0
        model.train()(batch)
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
        for part, mode in modes.items():
            part.training = mode
    for module in norms:
        if module.running_var is not None:
            least = float(module.running_var.mean())
            module.running_var.clamp_(min=least if least > 0 else 1.0)
    return model
