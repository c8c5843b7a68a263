"""What others wrap around a network, and the network inside."""

from __future__ import annotations

from torch import nn

__all__ = ["unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, DataParallel, torch.compile and AveragedModel, in any nesting.

    The network itself, not a copy.
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
