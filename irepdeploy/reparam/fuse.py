"""Fuse branches exactly into plain 3x3 convolutions, and prove it block by block."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.comparator import TOLERANCES, relative_error
from irepdeploy.errors import CheckFailed, NotFusable
from irepdeploy.memory_format import channels_last
from irepdeploy.origin import FUSED, origin_of, set_origin
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.geometry import random_input
from irepdeploy.reparam.insert import plain_conv

__all__ = ["BlockProof", "check_fusable", "fuse", "fuse_block", "fuse_with_proof", "prove_block"]


@dataclass(frozen=True)
class BlockProof:
    """Relative errors of one fused block against its branches, on a small map."""

    layer: str
    branches: tuple[str, ...]
    error_float64: float
    error_own_dtype: float
    dtype: str


def fuse(model: nn.Module, *, keep_bn: bool = False, prove: bool = True) -> nn.Module:
    """A new network in which every RepBlock is one 3x3 convolution with bias.

    Everything else is copied as it is: other batch normalisations, hooks, dtype, device, ``requires_grad`` and names.

    Args:
        model: a network with RepBlocks, in eval mode; it is not changed.
        keep_bn: put the bias into a neutral batch normalisation instead, so that the state dict loads strictly into the
            network that the branches were inserted into.
        prove: compare each block with its convolution: in float64 to 1e-10, in its own dtype to 1e-5 (float32).

    Raises:
        NotFusable: train mode, values that are not finite, or batch-normalisation statistics that are missing or not
            positive.
        CheckFailed: a block and its convolution differ; the worst is named.
    """
    return fuse_with_proof(model, keep_bn=keep_bn, prove=prove)[0]


def fuse_with_proof(
    model: nn.Module, *, keep_bn: bool = False, prove: bool = True
) -> tuple[nn.Module, list[BlockProof]]:
    """`fuse`, and what the proof of each block found."""
    check_fusable(model)
    inserted = {layer.name: layer for layer in origin_of(model).layers}
    modules = dict(model.named_modules())
    memo: dict[int, object] = {}
    proofs = []
    for name, block in modules.items():
        if not isinstance(block, RepBlock):
            continue
        conv = fuse_block(block)
        if prove:
            proofs.append(prove_block(block, conv, name))
        if keep_bn:
            layer = inserted.get(name)
            if layer is None or (layer.bn is None and not layer.bias):
                raise NotFusable(
                    "no batch normalisation followed this convolution and it had no bias: nothing can carry the bias",
                    where=name,
                    hint="fuse without keep_bn=True",
                )
            # Without one, the bias goes where the convolution had a bias of its own.
            if layer.bn is not None:
                memo[id(modules[layer.bn])] = _bias_into_bn(conv, block.fixed.bn, keep_conv_bias=layer.bias)
        memo[id(block)] = conv
    if proofs:
        _refuse_bad(proofs)
    plain = copy.deepcopy(model, memo)
    return set_origin(plain, state=FUSED), proofs


@torch.no_grad()
def fuse_block(block: RepBlock) -> nn.Conv2d:
    """The one convolution that `block` equals in eval mode."""
    kernel, bias = block.equivalent()
    fixed = block.fixed.conv
    conv = plain_conv(block.geometry, like=fixed)
    conv.weight.copy_(kernel)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    conv.requires_grad_(fixed.weight.requires_grad)
    if fixed.weight.is_contiguous(memory_format=torch.channels_last) and not fixed.weight.is_contiguous():
        channels_last(conv)
    return conv


@torch.no_grad()
def prove_block(block: RepBlock, conv: nn.Conv2d, name: str = "") -> BlockProof:
    """Run a block and its convolution side by side on a small seeded map.

    In float64 the block is fused anew, so that this tests the algebra; in its own dtype `conv` itself is run.
    """
    place = conv.weight.device
    wide = copy.deepcopy(block).double().eval()
    x = random_input(block.geometry, dtype=torch.float64, device=place)
    error64 = relative_error(_numpy(wide(x)), _numpy(fuse_block(wide)(x)))
    dtype = conv.weight.dtype
    if dtype == torch.float64:
        narrow_error = relative_error(_numpy(block(x)), _numpy(conv(x)))
    else:
        # The branches in the block's own dtype against the convolution that will be used.
        x = random_input(block.geometry, dtype=dtype, device=place)
        narrow_error = relative_error(_numpy(block(x)), _numpy(conv(x)))
    return BlockProof(name, block.active, error64, narrow_error, str(dtype).removeprefix("torch."))


def check_fusable(model: nn.Module) -> None:
    """Refuse a network that has no exact fused form.

    Raises:
        NotFusable: naming the module and how to mend it.
    """
    for name, module in model.named_modules():
        if module.training and isinstance(module, RepBlock | nn.modules.batchnorm._BatchNorm):
            raise NotFusable(
                "the network is in train mode, where batch normalisation depends on the batch",
                where=name or type(module).__name__,
                hint="call model.eval() first",
            )
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise NotFusable(
                "weights are not finite (NaN or infinity)",
                where=name,
                hint="train again, or take an earlier checkpoint",
            )
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if module.running_mean is None or module.running_var is None:
            raise NotFusable(
                "batch normalisation without running statistics has no fixed form",
                where=name,
                hint="train with track_running_stats=True",
            )
        if not bool(torch.isfinite(module.running_mean).all()) or not bool(torch.isfinite(module.running_var).all()):
            raise NotFusable(
                "statistics of this batch normalisation are not finite",
                where=name,
                hint="train again, or take an earlier checkpoint",
            )
        if bool((module.running_var <= 0).any()):
            raise NotFusable(
                "a running variance of this batch normalisation is not positive",
                where=name,
                hint="feed the network some batches in train mode, then call eval()",
            )


def _refuse_bad(proofs: list[BlockProof]) -> None:
    worst = max(proofs, key=lambda proof: _not_less(proof.error_float64))
    limit = TOLERANCES["float64"].max_rel_error
    if not worst.error_float64 <= limit:
        raise CheckFailed(f"fused block differs in float64: {worst.error_float64:.2e} > {limit:.0e}", where=worst.layer)
    worst = max(proofs, key=lambda proof: _not_less(proof.error_own_dtype))
    limit = TOLERANCES[f"{worst.dtype}-block"].max_rel_error
    if not worst.error_own_dtype <= limit:
        raise CheckFailed(
            f"fused block differs in {worst.dtype}: {worst.error_own_dtype:.2e} > {limit:.0e}", where=worst.layer
        )


def _not_less(error: float) -> float:
    return float("inf") if error != error else error


def _bias_into_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d | None, *, keep_conv_bias: bool) -> nn.BatchNorm2d:
    """Move the bias of `conv` into a batch normalisation that multiplies by exactly 1."""
    assert conv.bias is not None and bn is not None
    neutral = copy.deepcopy(bn)
    with torch.no_grad():
        assert neutral.running_mean is not None and neutral.running_var is not None
        neutral.running_mean.zero_()
        # sqrt(var + eps) must round to exactly 1 in the network's own dtype.
        neutral.running_var.fill_(1.0 - bn.eps)
        neutral.weight.copy_(torch.sqrt(neutral.running_var + bn.eps))
        neutral.bias.copy_(conv.bias)
        if keep_conv_bias:
            conv.bias.zero_()
        else:
            conv.register_parameter("bias", None)
    return neutral


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().double().cpu().numpy()
