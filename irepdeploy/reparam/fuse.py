"""Fuse branches exactly into plain convolutions, and prove the result block by block."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.errors import CheckFailed, InputError, NotFusable
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.comparator import TOLERANCES, relative_error
from irepdeploy.reparam.fusable import check_fusable
from irepdeploy.reparam.geometry import random_input
from irepdeploy.reparam.insert import Where
from irepdeploy.reparam.normalization import Norm, scale_shift
from irepdeploy.reparam.origin import FUSED, TRAIN, InsertedLayer, Origin, origin_of, set_origin
from irepdeploy.reparam.structure import copied_without_hooks, plain_conv, replaced
from irepdeploy.reparam.wrappers import unwrapped
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.runtime.memory_format import channels_last

__all__ = ["BlockProof", "fuse", "fuse_block", "fuse_with_proof", "prove_block"]

# Kernel and bias of a block in eval mode, in float64.
Equivalent = Callable[[RepBlock], tuple[Tensor, Tensor]]


def _by_algebra(block: RepBlock) -> tuple[Tensor, Tensor]:
    return block.equivalent()


@dataclass(frozen=True)
class BlockProof:
    """Relative errors of one fused block against the block itself, measured on a small map.

    Attributes:
        layer: Name of the block.
        branches: Names of its active branches.
        error_float64: Error of the fused kernel before rounding, in float64.
        error_own_dtype: Error of the resulting convolution, in `dtype`.
        dtype: Dtype of the block, such as "float32".
    """

    layer: str
    branches: tuple[str, ...]
    error_float64: float
    error_own_dtype: float
    dtype: str


def fuse(
    model: nn.Module,
    *,
    keep_bn: bool = False,
    prove: bool = True,
    method: str | None = None,
    where: Where | None = None,
    example: Any = None,
) -> nn.Module:
    """Return a new network in which every RepBlock is replaced by one convolution with bias.

    Everything else is copied unchanged: other batch normalizations, hooks, dtype, device, ``requires_grad`` and names.
    Wrappers such as DistributedDataParallel or torch.compile are removed.

    Args:
        model: A network with RepBlocks, in eval mode; it is not changed.
        keep_bn: Keep the bias in a neutral batch normalization instead of the convolution, so that the state dict
            loads strictly into the network into which the branches were inserted.
        prove: Compare each block with its convolution, in float64 to 1e-10 and in its own dtype to 1e-5 (float32).
        method: Deprecated. Call `irepdeploy.fuse_probe` for "probe" and `irepdeploy.fuse_graph` for "graph".
        where: Deprecated. Pass it to `irepdeploy.fuse_probe`.
        example: Deprecated. Pass it to `irepdeploy.fuse_graph`.

    Returns:
        The fused network, in eval mode.

    Raises:
        NotFusable: The network is in train mode, has weights or statistics that are not finite, has
            batch-normalization statistics that are missing or a running variance that is not positive, or has RepBlocks
            that were dissolved by tracing. With `keep_bn`, also if a block has no place for the bias.
        CheckFailed: A block and its convolution differ. The error names the worst block.
    """
    if method is not None or where is not None or example is not None:
        return _by_method(model, method or "algebra", keep_bn=keep_bn, prove=prove, where=where, example=example)
    return fuse_with_proof(model, keep_bn=keep_bn, prove=prove)[0]


def _by_method(
    model: nn.Module, method: str, *, keep_bn: bool, prove: bool, where: Where | None, example: Any
) -> nn.Module:
    """Redirect a call in the style of version 0.1 to its current function."""
    # Through the top-level package, because fuse_graph lives in a room above this one.
    import irepdeploy

    if method not in ("algebra", "probe", "graph"):
        raise InputError(f"expected a method of algebra, probe or graph, got {method!r}")
    if where is not None and method != "probe":
        raise InputError(
            "`where` selects foreign blocks, which fuse() does not support", hint="ird.fuse_probe(net, where)"
        )
    if example is not None and method != "graph":
        raise InputError("fuse() takes no example", hint="ird.fuse_graph(net, example)")
    if keep_bn and method == "graph":
        raise InputError("keep_bn applies to blocks, and a graph has none", hint="omit it")
    new = {"algebra": "fuse(net)", "probe": "fuse_probe(net, where=...)", "graph": "fuse_graph(net, example=...)"}
    warnings.warn(
        f"fuse(method={method!r}) is deprecated: call irepdeploy.{new[method]}", DeprecationWarning, stacklevel=3
    )
    if method == "graph":
        return irepdeploy.fuse_graph(model, example, prove=prove)
    if method == "probe":
        return irepdeploy.fuse_probe(model, where, keep_bn=keep_bn, prove=prove)
    return fuse(model, keep_bn=keep_bn, prove=prove)


def fuse_with_proof(
    model: nn.Module,
    *,
    keep_bn: bool = False,
    prove: bool = True,
    equivalent: Equivalent = _by_algebra,
    foreign: Mapping[nn.Module, nn.Module] | None = None,
) -> tuple[nn.Module, list[BlockProof]]:
    """Fuse as `fuse` does, and also return the proof of each block.

    Args:
        model: As for `fuse`.
        keep_bn: As for `fuse`.
        prove: As for `fuse`; without it the list of proofs is empty.
        equivalent: Function that computes kernel and bias of a block in float64.
        foreign: Modules of other classes to replace as well, with their replacements.

    Raises:
        NotFusable: As for `fuse`.
        CheckFailed: As for `fuse`.
    """
    if not isinstance(model, nn.Module):
        raise NotFusable(f"expected a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    check_fusable(model, everywhere=False)
    inserted = {layer.name: layer for layer in origin_of(model).layers}
    modules = dict(model.named_modules())
    replacements: dict[nn.Module, nn.Module] = {}
    proofs = []
    for name, block in modules.items():
        if not isinstance(block, RepBlock):
            continue
        if prove:
            conv, proof = prove_block(block, name, equivalent)
            proofs.append(proof)
        else:
            conv = fuse_block(block, equivalent)
        if keep_bn:
            replacements.update(_bias_moved(block, conv, inserted.get(name), modules, name))
        replacements[block] = conv
    if proofs:
        _refuse_bad(proofs)
    plain = replaced(model, {**replacements, **(foreign or {})}, {})
    return set_origin(plain, _origin_after(origin_of(model), keep_bn)), proofs


@torch.no_grad()
@exact_arithmetic()
def fuse_block(block: RepBlock, equivalent: Equivalent = _by_algebra) -> nn.Conv2d:
    """Return the convolution that `block` equals in eval mode, computed in float64 and rounded once."""
    return _rounded(block, *equivalent(_wide(copied_without_hooks(block))))


@torch.no_grad()
@exact_arithmetic()
def prove_block(block: RepBlock, name: str = "", equivalent: Equivalent = _by_algebra) -> tuple[nn.Conv2d, BlockProof]:
    """Fuse a block, and compare it with its convolution on a small seeded map.

    In float64 the block is compared with the kernel before rounding, which tests the algebra. In its own dtype it is
    compared with the convolution that will be used.
    """
    weight = block.fixed.conv.weight
    twin = copied_without_hooks(block).eval()
    x = random_input(block.geometry, dtype=weight.dtype, device=weight.device)
    narrow = _numpy(twin(x))
    wide = _wide(twin)
    kernel, bias = equivalent(wide)
    conv = _rounded(block, kernel, bias)
    narrow_error = relative_error(narrow, _numpy(conv(x)))
    exact = plain_conv(block.geometry, like=wide.fixed.conv)
    exact.weight, exact.bias = nn.Parameter(kernel), nn.Parameter(bias)
    x = random_input(block.geometry, dtype=torch.float64, device=kernel.device)
    error64 = relative_error(_numpy(wide(x)), _numpy(exact(x)))
    dtype = str(weight.dtype).removeprefix("torch.")
    return conv, BlockProof(name, block.active, error64, narrow_error, dtype)


def _wide(copied: RepBlock) -> RepBlock:
    """Convert a block to float64 in place, and move it to the CPU from an Apple GPU, which has no float64."""
    place = copied.fixed.conv.weight.device
    return copied.to(device="cpu" if place.type == "mps" else place, dtype=torch.float64)


def _rounded(block: RepBlock, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    fixed = block.fixed.conv
    conv = plain_conv(block.geometry, like=fixed)
    conv.weight.copy_(kernel)
    assert conv.bias is not None
    conv.bias.copy_(bias)
    conv.requires_grad_(fixed.weight.requires_grad)
    if fixed.weight.is_contiguous(memory_format=torch.channels_last) and not fixed.weight.is_contiguous():
        channels_last(conv)
    return conv


def _refuse_bad(proofs: list[BlockProof]) -> None:
    wide = [(proof.error_float64, "float64", "float64", proof.layer) for proof in proofs]
    own = [(proof.error_own_dtype, proof.dtype, f"{proof.dtype}-block", proof.layer) for proof in proofs]
    for errors in (wide, own):
        # NaN counts as the largest error.
        error, dtype, tolerance, layer = max(errors, key=lambda each: math.inf if math.isnan(each[0]) else each[0])
        limit = TOLERANCES[tolerance].max_rel_error
        if not error <= limit:
            raise CheckFailed(f"fused block differs in {dtype}: {error:.2e} > {limit:.0e}", where=layer)


def _bias_moved(
    block: RepBlock, conv: nn.Conv2d, layer: InsertedLayer | None, modules: dict[str, nn.Module], name: str
) -> dict[nn.Module, nn.Module]:
    """Move the bias to where the original network can hold it, and return the replacement of its BN, if any."""
    if layer is None or (layer.bn is None and not layer.bias):
        raise NotFusable(
            "no place for the bias: no batch normalization moved into this block, and its convolution had no bias",
            where=name,
            hint="fuse without keep_bn=True"
            + ("; the preset gave the block a batch normalization of its own" if layer and layer.own_bn else ""),
        )
    _refuse_tied(block, modules, name)
    if layer.bn is None or layer.folded:
        return {}
    return {modules[layer.bn]: _bias_into_bn(conv, block.fixed.bn, keep_conv_bias=layer.bias)}


def _refuse_tied(block: RepBlock, modules: dict[str, nn.Module], name: str) -> None:
    weight = block.fixed.conv.weight
    for other, module in modules.items():
        if module is not block.fixed.conv and any(p is weight for p in module.parameters(recurse=False)):
            raise NotFusable(
                f"its convolution shares its weight with {other}, but their fused weights differ: the original class "
                "cannot hold both",
                where=name,
                hint="fuse without keep_bn=True",
            )


def _bias_into_bn(conv: nn.Conv2d, bn: Norm | None, *, keep_conv_bias: bool) -> Norm:
    """Move the bias of `conv` into a batch normalization that multiplies by exactly 1."""
    assert conv.bias is not None and bn is not None
    neutral = copy.deepcopy(bn)
    with torch.no_grad():
        assert neutral.running_mean is not None and neutral.running_var is not None
        neutral.running_mean.zero_()
        # sqrt(var + eps) must round to exactly 1 in the dtype of the network.
        neutral.running_var.fill_(1.0 - bn.eps if bn.eps < 0.5 else 1.0)
        neutral.weight.copy_(torch.sqrt(neutral.running_var + bn.eps))
        neutral.bias.copy_(conv.bias)
        if keep_conv_bias:
            conv.bias.zero_()
        else:
            conv.register_parameter("bias", None)
        scale, shift = scale_shift(neutral)
        exact = float((scale - 1).abs().max()) <= torch.finfo(scale.dtype).eps
        if not exact or not torch.equal(shift, neutral.bias):
            raise CheckFailed(f"batch normalization with eps={bn.eps} cannot be made neutral in {scale.dtype}")
    return neutral


def _origin_after(origin: Origin, keep_bn: bool) -> Origin:
    layers = tuple(replace(layer, own_bn=False, folded=False, fused=False, off=()) for layer in origin.layers)
    if not keep_bn:
        return replace(origin, state=FUSED, layers=layers)
    # Describes the network before the insertion again, except for layers that were fused before it.
    left = tuple(
        now for was, now in zip(origin.layers, layers, strict=True) if was.folded or was.fused or origin.state == FUSED
    )
    return replace(origin, state=FUSED if left else TRAIN, layers=left)


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().double().cpu().numpy()
