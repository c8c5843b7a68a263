"""Replace modules of a network: convolutions by RepBlocks, and RepBlocks by plain convolutions.

`insert_branches`, `fuse` and the loading of checkpoints share this module.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from irepdeploy.errors import ArchitectureError, ModelError, one_line
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.geometry import Geometry, refusal
from irepdeploy.reparam.normalization import NORMS, Norm
from irepdeploy.reparam.origin import FUSED, InsertedLayer, Origin, set_origin
from irepdeploy.runtime.memory import is_out_of_memory

__all__ = ["copied", "copied_without_hooks", "has_hooks", "insert_layers", "plain_conv", "rebuild", "replaced"]

Module = TypeVar("Module", bound=nn.Module)

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def insert_layers(model: nn.Module, layers: Sequence[InsertedLayer]) -> nn.Module:
    """Copy `model` with each of these convolutions replaced by a RepBlock that takes over weights and statistics.

    Raises:
        ArchitectureError: A convolution does not exist, or cannot have a branch.
        ModelError: The network cannot be copied.
    """
    memo: dict[int, Any] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    modules = dict(model.named_modules())
    for layer in layers:
        conv, bn = _find(modules, layer, with_bn=not layer.folded)
        block = _rep_block(copied_without_hooks(conv, memo), bn and copied_without_hooks(bn, memo), layer)
        replacements[conv] = _in_mode_of(conv, bn, block)
        if bn is not None:
            replacements[bn] = nn.Identity().train(bn.training)
    return replaced(model, replacements, memo)


def rebuild(base: nn.Module, origin: Origin) -> nn.Module:
    """Copy `base`, the network before the insertion, with the structure that `origin` describes.

    The values of new modules are initial ones, to be overwritten by loading a checkpoint.

    Raises:
        ArchitectureError: `origin` does not match the network.
        ModelError: The network cannot be copied.
    """
    replacements: dict[nn.Module, nn.Module] = {}
    modules = dict(base.named_modules())
    for layer in origin.layers:
        # A fused network into which branches were inserted again no longer has its batch normalizations.
        conv, bn = _find(modules, layer, with_bn=not layer.folded or isinstance(modules.get(layer.bn or ""), NORMS))
        if origin.state == FUSED or layer.fused:
            new: nn.Module = plain_conv(Geometry.of(conv), like=conv)
        else:
            inner = plain_conv(Geometry.of(conv), like=conv) if layer.folded else copied_without_hooks(conv)
            new = block = _rep_block(inner, None if layer.folded or bn is None else copied_without_hooks(bn), layer)
            block.active = [name for name in block.branches if name not in layer.off]
        replacements[conv] = new.train(conv.training)
        if bn is not None:
            replacements[bn] = nn.Identity().train(bn.training)
    return set_origin(replaced(base, replacements, {}), origin)


def replaced(model: nn.Module, replacements: Mapping[nn.Module, nn.Module], memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of `model` in which every use of each key of `replacements` is replaced by its value.

    Hooks move to the replacement; hooks on parts of a RepBlock are dropped together with the parts. `memo` is the memo
    of deepcopy, and may already hold copies.

    Raises:
        ModelError: The network cannot be copied, or its copy lacks a replacement.
    """
    # deepcopy takes an object's entry in its memo as the copy, so replaced modules are never copied.
    memo.update({id(old): new for old, new in replacements.items()})
    result: nn.Module = _deepcopy(model, memo)
    there = set(result.modules())
    names = {module: name for name, module in model.named_modules()}
    for old, new in replacements.items():
        if new not in there:
            raise ModelError(
                "the copy of the network lacks the replacement of this module",
                where=names.get(old),
                hint="a module around it copies itself (__deepcopy__) and drops it",
            )
    for old, new in replacements.items():
        for name in _HOOKS:
            getattr(new, name).update(_deepcopy(dict(getattr(old, name)), memo))
        if old._is_full_backward_hook is not None:
            new._is_full_backward_hook = old._is_full_backward_hook
    return result


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a network; tensors stored by a past forward pass are copied without their autograd history.

    Raises:
        ModelError: The network contains something that cannot be copied.
    """
    result: nn.Module = _deepcopy(model, {})
    return result


def copied_without_hooks(module: Module, memo: dict[int, Any] | None = None) -> Module:
    """Return a deep copy of `module` without its hooks.

    A hook may refer to any object, even to the whole network, which must not be copied along with one part.
    """
    memo = {} if memo is None else memo
    for part in module.modules():
        memo.update({id(getattr(part, name)): type(getattr(part, name))() for name in _HOOKS})
    return _deepcopy(module, memo)


def has_hooks(module: nn.Module) -> bool:
    """Return whether `module` itself has hooks."""
    return any(getattr(module, name) for name in _HOOKS)


def plain_conv(geometry: Geometry, like: nn.Conv2d) -> nn.Conv2d:
    """Create an uninitialized convolution with bias, with the dtype, device and mode of `like`."""
    conv = geometry.conv(bias=True, kind=_WithoutValues, device=like.weight.device, dtype=like.weight.dtype)
    conv.__class__ = nn.Conv2d
    return conv.train(like.training)


class _WithoutValues(nn.Conv2d):
    # torch's own skip_init uses the meta device, which imports sympy and takes a third of a second.
    def reset_parameters(self) -> None:
        """Do nothing; the caller sets the values."""


def _in_mode_of(conv: nn.Conv2d, bn: Norm | None, block: RepBlock) -> RepBlock:
    """Preserve train and eval mode, so that a frozen batch normalization stays frozen."""
    block.train(conv.training)
    if bn is not None and block.fixed.bn is not None:
        block.fixed.bn.train(bn.training)
    return block


def _rep_block(conv: nn.Conv2d, bn: Norm | None, layer: InsertedLayer) -> RepBlock:
    if layer.own_bn:
        bn = nn.BatchNorm2d(conv.out_channels).to(conv.weight)
        # With its initial statistics this makes the batch normalization an identity in eval mode.
        nn.init.constant_(bn.weight, (1 + bn.eps) ** 0.5)
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
    try:
        return RepBlock(conv, bn, layer.branches, scaled=layer.scaled)
    except ArchitectureError as error:
        raise ArchitectureError(error.what, where=layer.name, hint=error.hint) from None


def _find(
    modules: Mapping[str, nn.Module], layer: InsertedLayer, *, with_bn: bool = True
) -> tuple[nn.Conv2d, Norm | None]:
    conv = modules.get(layer.name)
    bn = modules.get(layer.bn) if layer.bn is not None and with_bn else None
    if not isinstance(conv, nn.Conv2d) or (layer.bn is not None and with_bn and not isinstance(bn, NORMS)):
        raise ArchitectureError("the network has no such convolution and batch normalization", where=layer.name)
    reason = refusal(conv)
    if reason is not None:
        raise ArchitectureError(f"cannot replace this convolution: {reason}", where=layer.name)
    return conv, bn if isinstance(bn, NORMS) else None


def _deepcopy(value: Any, memo: dict[int, Any]) -> Any:
    for module in value.modules() if isinstance(value, nn.Module) else ():
        # Weight normalization stores the weight it computed last, and torch cannot copy tensors with a history.
        stored = (item for item in vars(module).values() if isinstance(item, Tensor) and not item.is_leaf)
        memo.update((id(tensor), tensor.detach().clone()) for tensor in stored)
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:  # anything that a foreign module raises
        if is_out_of_memory(error):
            raise
        raise ModelError(f"the network cannot be copied: {one_line(error)}") from error
