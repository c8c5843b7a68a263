"""Fuse branches exactly into plain convolutions, and prove it block by block."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.errors import CheckFailed, InputError, NotFusable
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.comparator import TOLERANCES, relative_error
from irepdeploy.reparam.geometry import random_input
from irepdeploy.reparam.insert import Where, matches
from irepdeploy.reparam.normalisation import Norm, scale_shift
from irepdeploy.reparam.origin import FUSED, TRAIN, InsertedLayer, Origin, origin_of, set_origin
from irepdeploy.reparam.structure import copied_without_hooks, plain_conv, replaced
from irepdeploy.reparam.tracer import dissolved_block
from irepdeploy.reparam.wrappers import unwrapped
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.runtime.memory_format import channels_last

__all__ = ["BlockProof", "check_fusable", "fuse", "fuse_block", "fuse_with_proof", "prove_block"]

Example = Tensor | tuple[Tensor, ...] | None
Method = Literal["algebra", "probe", "graph"]


@dataclass(frozen=True)
class BlockProof:
    """Relative errors of one fused block against its branches, on a small map."""

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
    method: Method = "algebra",
    where: Where | None = None,
    example: Example = None,
) -> nn.Module:
    """A new network in which every RepBlock is one convolution with bias.

    Everything else is copied as it is: other batch normalisations, hooks, dtype, device, ``requires_grad`` and names.
    What DistributedDataParallel, torch.compile and the like wrap around the network is taken off.

    Args:
        model: a network with RepBlocks, in eval mode; it is not changed.
        keep_bn: put the bias into a neutral batch normalisation instead, so that the state dict loads strictly into the
            network that the branches were inserted into.
        prove: compare each block with its convolution: in float64 to 1e-10, in its own dtype to 1e-5 (float32).
        method: "algebra" adds up the kernels of the branches; "probe" reads each block's kernel off its response to
            unit impulses, which needs no algebra and is slow; "graph" knows no blocks: it writes a network of any class
            as ONNX, collapses what is linear there, and reads that back as a new `torch.fx.GraphModule`.
        where: with "probe": blocks of foreign classes to replace as well, by a glob on their names, by type or by
            ``f(name, module) -> bool``; each must be one convolution, which is checked.
        example: with "graph": an input (1, C, H, W), or a tuple of inputs; default: what the network says it reads.

    Raises:
        NotFusable: train mode, values that are not finite, batch-normalisation statistics that are missing or not
            positive, RepBlocks that were dissolved in a graph, or a foreign block that is not one convolution.
        CheckFailed: a block and its convolution differ; the worst is named.
    """
    if method == "graph":
        from irepdeploy.onnx_collapse.read_back.graph_fuse import fuse_graph

        if keep_bn or where is not None:
            raise InputError(
                f"{'keep_bn' if keep_bn else 'where'} goes with blocks, and a graph has none", hint="leave it out"
            )
        return fuse_graph(unwrapped(model), example, prove=prove)
    if example is not None:
        raise InputError("only a graph is exported with an example", hint='add method="graph"')
    return fuse_with_proof(model, keep_bn=keep_bn, prove=prove, method=method, where=where)[0]


def fuse_with_proof(
    model: nn.Module,
    *,
    keep_bn: bool = False,
    prove: bool = True,
    method: Method = "algebra",
    where: Where | None = None,
) -> tuple[nn.Module, list[BlockProof]]:
    """`fuse`, and what the proof of each block found."""
    if method not in ("algebra", "probe"):
        raise InputError(f"no method {method!r} to fuse by", hint="algebra, probe or graph")
    if where is not None and method != "probe":
        raise InputError("`where` chooses foreign blocks, which only a probe can read", hint='add method="probe"')
    if not isinstance(model, nn.Module):
        raise NotFusable(f"{type(model).__name__} is no torch.nn.Module")
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
            conv, proof = prove_block(block, name, method)
            proofs.append(proof)
        else:
            conv = fuse_block(block, method)
        if keep_bn:
            replacements.update(_bias_moved(block, conv, inserted.get(name), modules, name))
        replacements[block] = conv
    if proofs:
        _refuse_bad(proofs)
    if where is not None:
        replacements.update(_foreign(model, modules, where))
    plain = replaced(model, replacements, {})
    return set_origin(plain, _origin_after(origin_of(model), keep_bn)), proofs


@torch.no_grad()
@exact_arithmetic()
def fuse_block(block: RepBlock, method: Method = "algebra") -> nn.Conv2d:
    """The one convolution that `block` equals in eval mode: its kernel is added up in float64 and rounded once."""
    return _rounded(block, *_kernel(block, _wide(copied_without_hooks(block)), method))


@torch.no_grad()
@exact_arithmetic()
def prove_block(block: RepBlock, name: str = "", method: Method = "algebra") -> tuple[nn.Conv2d, BlockProof]:
    """`fuse_block`, and the block and its convolution run side by side on a small seeded map.

    In float64 against the kernel before it was rounded, which tests the algebra; in the block's own dtype against the
    convolution that will be used.
    """
    weight = block.fixed.conv.weight
    twin = copied_without_hooks(block).eval()
    x = random_input(block.geometry, dtype=weight.dtype, device=weight.device)
    narrow = _numpy(twin(x))
    wide = _wide(twin)
    kernel, bias = _kernel(block, wide, method)
    conv = _rounded(block, kernel, bias)
    narrow_error = relative_error(narrow, _numpy(conv(x)))
    exact = plain_conv(block.geometry, like=wide.fixed.conv)
    exact.weight, exact.bias = nn.Parameter(kernel), nn.Parameter(bias)
    x = random_input(block.geometry, dtype=torch.float64, device=kernel.device)
    error64 = relative_error(_numpy(wide(x)), _numpy(exact(x)))
    dtype = str(weight.dtype).removeprefix("torch.")
    return conv, BlockProof(name, block.active, error64, narrow_error, dtype)


def _wide(copied: RepBlock) -> RepBlock:
    """The copy of a block that is given, in float64."""
    # Apple's GPUs have no float64.
    place = copied.fixed.conv.weight.device
    return copied.to(device="cpu" if place.type == "mps" else place, dtype=torch.float64)


def _kernel(block: RepBlock, wide: RepBlock, method: Method) -> tuple[Tensor, Tensor]:
    if method == "probe":
        from irepdeploy.reparam.probe import probe_block

        return probe_block(block)
    return wide.equivalent()


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


def check_fusable(model: nn.Module, *, everywhere: bool = True) -> None:
    """Refuse a network that has no exact fused form.

    Args:
        everywhere: whether every batch normalisation must have one, or those of RepBlocks alone.

    Raises:
        NotFusable: naming the module and how to mend it.
    """
    dissolved = dissolved_block(model)
    if dissolved is not None:
        raise NotFusable(
            "the branches are dissolved in a traced, scripted or exported graph: no block is left to fuse",
            where=dissolved,
            hint="fuse before tracing, or trace with irepdeploy.reparam.tracer.Tracer, which keeps RepBlocks whole",
        )
    for name, module in model.named_modules():
        if module.training and isinstance(module, RepBlock | nn.modules.batchnorm._BatchNorm):
            raise NotFusable(
                "the network is in train mode, where batch normalisation depends on the batch",
                where=name or type(module).__name__,
                hint="call model.eval() first",
            )
    blocks = tuple(f"{name}." if name else "" for name, module in model.named_modules() if isinstance(module, RepBlock))
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise NotFusable("weights on the meta device have no values", where=name, hint="load some first")
        if not _all_finite(parameter):
            raise NotFusable(
                "weights are not finite (NaN or infinity)",
                where=name,
                hint="train again, or take an earlier checkpoint",
            )
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if not everywhere and not name.startswith(blocks):
            continue
        if module.running_mean is None or module.running_var is None:
            raise NotFusable(
                "batch normalisation without running statistics has no fixed form",
                where=name,
                hint="train with track_running_stats=True",
            )
        if not _all_finite(module.running_mean) or not _all_finite(module.running_var):
            raise NotFusable(
                "statistics of this batch normalisation are not finite",
                where=name,
                hint="train again, or take an earlier checkpoint",
            )
        if bool((module.running_var <= 0).any()):
            raise NotFusable(
                "a running variance of this batch normalisation is not positive",
                where=name,
                hint="train some batches; a dead channel's output is constant: give it a running_var above 0 yourself",
            )


def _all_finite(tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach())
    elif tensor.is_floating_point() and tensor.itemsize < 2:
        tensor = tensor.detach().float()
    # The smallest and the largest are NaN or infinite where any value is; no tensor of flags is made.
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


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


def _bias_moved(
    block: RepBlock, conv: nn.Conv2d, layer: InsertedLayer | None, modules: dict[str, nn.Module], name: str
) -> dict[nn.Module, nn.Module]:
    """Put the bias where the network before the insertion can carry it; what stands for its batch normalisation."""
    if layer is None or (layer.bn is None and not layer.bias):
        raise NotFusable(
            "no batch normalisation moved into this block and its convolution had no bias: nothing can carry the bias",
            where=name,
            hint="fuse without keep_bn=True"
            + ("; the preset gave the block a batch normalisation of its own" if layer and layer.own_bn else ""),
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
                f"its convolution shares its weight with {other}, and fused the two differ: no file of the unchanged "
                "class holds both",
                where=name,
                hint="fuse without keep_bn=True",
            )


def _bias_into_bn(conv: nn.Conv2d, bn: Norm | None, *, keep_conv_bias: bool) -> Norm:
    """Move the bias of `conv` into a batch normalisation that multiplies by exactly 1."""
    assert conv.bias is not None and bn is not None
    neutral = copy.deepcopy(bn)
    with torch.no_grad():
        assert neutral.running_mean is not None and neutral.running_var is not None
        neutral.running_mean.zero_()
        # sqrt(var + eps) must round to exactly 1 in the network's own dtype.
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
            raise CheckFailed(f"batch normalisation with eps={bn.eps} cannot be made neutral in {scale.dtype}")
    return neutral


def _origin_after(origin: Origin, keep_bn: bool) -> Origin:
    layers = tuple(replace(layer, own_bn=False, folded=False, fused=False, off=()) for layer in origin.layers)
    if not keep_bn:
        return replace(origin, state=FUSED, layers=layers)
    # The network before the insertion again, save for what had been fused before that.
    left = tuple(
        now for was, now in zip(origin.layers, layers, strict=True) if was.folded or was.fused or origin.state == FUSED
    )
    return replace(origin, state=FUSED if left else TRAIN, layers=left)


def _foreign(model: nn.Module, modules: dict[str, nn.Module], where: Where) -> dict[nn.Module, nn.Module]:
    from irepdeploy.reparam.probe import probe_module

    found: dict[nn.Module, nn.Module] = {}
    done: list[str] = []
    for name, module in modules.items():
        if not name or isinstance(module, RepBlock) or name.startswith(tuple(done)):
            continue
        chosen = isinstance(module, where) if isinstance(where, type) else matches(model, where, name)
        if chosen:
            found[module] = probe_module(module, name=name)
            done.append(f"{name}.")
    if not found:
        raise InputError(f"no module chosen by where={where!r}", hint="a glob on names, a type, or f(name, module)")
    return found


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().double().cpu().numpy()
