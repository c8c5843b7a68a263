"""Refuse networks that have no exact fused form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irepdeploy.errors import NotFusable
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.tracer import dissolved_block

__all__ = ["check_fusable"]

_TRAIN_AGAIN = "train again, or use an earlier checkpoint"


def check_fusable(model: nn.Module, *, everywhere: bool = True) -> None:
    """Raise NotFusable for a network that has no exact fused form.

    Unless `everywhere` is set, the statistics of batch normalizations outside RepBlocks are not checked.
    """
    dissolved = dissolved_block(model)
    if dissolved is not None:
        raise NotFusable(
            "the branches were dissolved by tracing, scripting or exporting: no block is left to fuse",
            where=dissolved,
            hint="fuse before tracing, or trace with irepdeploy.reparam.tracer.Tracer, which keeps RepBlocks whole",
        )
    for name, module in model.named_modules():
        if module.training and isinstance(module, RepBlock | nn.modules.batchnorm._BatchNorm):
            raise NotFusable(
                "the network is in train mode, where batch normalization depends on the batch",
                where=name or type(module).__name__,
                hint="call model.eval() first",
            )
    blocks = tuple(f"{name}." if name else "" for name, module in model.named_modules() if isinstance(module, RepBlock))
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise NotFusable("weights on the meta device have no values", where=name, hint="load weights first")
        if not _all_finite(parameter):
            raise NotFusable("weights are not finite (NaN or infinity)", where=name, hint=_TRAIN_AGAIN)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (everywhere or name.startswith(blocks)):
            _check_statistics(module, name)


def _check_statistics(bn: nn.modules.batchnorm._BatchNorm, name: str) -> None:
    if bn.running_mean is None or bn.running_var is None:
        text = "batch normalization without running statistics has no fixed form"
        raise NotFusable(text, where=name, hint="train with track_running_stats=True")
    if not _all_finite(bn.running_mean) or not _all_finite(bn.running_var):
        raise NotFusable("statistics of this batch normalization are not finite", where=name, hint=_TRAIN_AGAIN)
    if bool((bn.running_var <= 0).any()):
        raise NotFusable(
            "a running variance of this batch normalization is not positive",
            where=name,
            hint="train some batches; a dead channel's output is constant: set its running_var above 0 yourself",
        )


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach())
    elif tensor.is_floating_point() and tensor.itemsize < 2:
        tensor = tensor.detach().float()
    # The extremes are NaN or infinite if any value is, and no tensor of flags is allocated.
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))
