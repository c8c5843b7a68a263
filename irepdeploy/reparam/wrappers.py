"""Remove the wrappers that PyTorch puts around a network."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from irepdeploy.errors import ModelError

__all__ = ["refuse_uninitialized", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside DistributedDataParallel, DataParallel, torch.compile or AveragedModel, without a copy.

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


def refuse_uninitialized(model: nn.Module) -> None:
    """Raise ModelError for a network with lazy layers that have no weights yet."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                "this lazy layer has no weights yet",
                where=name,
                hint="run the network once: net(torch.zeros(1, C, H, W))",
            )
