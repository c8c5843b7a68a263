"""Fuse the branches before the end of a training, which continues with the plain network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.errors import InputError, NotFusable
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.origin import origin_of

__all__ = ["fused_early", "fused_structure"]


def fused_structure(net: nn.Module) -> nn.Module:
    """Return the plain network that equals `net` in eval mode and keeps its batch normalizations.

    Raises:
        InputError: There is no place for a batch normalization outside a block.
    """
    try:
        return fuse(net.eval(), keep_bn=True)
    except NotFusable as error:
        raise InputError(
            f"the branches at {error.where} cannot be fused before the end: {error.what}",
            where="train.fuse_at",
            hint="leave train.fuse_at out",
        ) from error


def fused_early(net: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> nn.Module:
    """Return the plain network that equals `net` in eval mode, and approximately in train mode.

    The normalizations of `fused_structure` multiply by 1 in eval mode, but would divide by the deviation of a batch in
    train mode. Each gets the statistics of its input over `batches`, and the weight and bias that undo them.
    """
    # Only these are neutral; other normalizations keep what they have learned.
    names = [layer.bn for layer in origin_of(net).layers if layer.bn is not None and not (layer.folded or layer.fused)]
    plain = fused_structure(net)
    norms = [plain.get_submodule(name) for name in names]
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}

    def watch(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].detach(), (0, 2, 3), correction=0)
        seen[norm].append((mean, variance))

    hooks = [norm.register_forward_pre_hook(watch) for norm in norms]
    try:
        with torch.no_grad():
            for images, _ in batches:
                plain(images)
            for norm, statistics in seen.items():
                _undo(norm, statistics)
    finally:
        for hook in hooks:
            hook.remove()
    return plain.train()


def _undo(norm: nn.Module, statistics: list[tuple[Tensor, Tensor]]) -> None:
    assert isinstance(norm, NORMS) and norm.running_mean is not None and norm.running_var is not None
    means, variances = (torch.stack(each) for each in zip(*statistics, strict=True))
    mean = means.mean(0)
    norm.running_mean.copy_(mean)
    # Variance over all batches. That of a dead channel is 0, which the next fuse could not use.
    norm.running_var.copy_((variances.mean(0) + (means - mean).square().mean(0)).clamp_min(norm.eps))
    norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
    norm.bias.add_(mean)
