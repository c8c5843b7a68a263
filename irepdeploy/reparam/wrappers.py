"""Remove the wrappers that PyTorch puts around a network."""

from __future__ import annotations

from torch import nn

__all__ = ["unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside DistributedDataParallel, DataParallel, torch.compile or AveragedModel, not a copy.

    Wrappers may be nested.
    """
    from torch.optim.swa_utils import AveragedModel

    while True:
        inside: object = None
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel | AveragedModel):
            inside = model.module
        elif type(model).__name__ == "OptimizedModule":
            inside = getattr(model, "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            return model
        model = inside
