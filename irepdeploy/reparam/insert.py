"""Insert branches beside the 3x3 convolutions of any network."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.fx
from torch import nn

from irepdeploy.arch import Architecture
from irepdeploy.errors import ArchitectureError, ModelError
from irepdeploy.origin import FUSED, TRAIN, InsertedLayer, origin_of, set_origin
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import possible_branches
from irepdeploy.reparam.geometry import Geometry, refusal
from irepdeploy.reparam.presets import preset_of

__all__ = ["Where", "expandable", "insert_branches", "insert_layers", "plain_layers"]

Where = str | type[nn.Module] | Callable[[str, nn.Module], bool]


def insert_branches(
    model: nn.Module,
    branches: str | Sequence[str] | Architecture = "ireps",
    where: Where = "*",
    *,
    scaled: bool | None = None,
    preserve: bool = False,
) -> nn.Module:
    """A new network with a RepBlock in the place of each chosen 3x3 convolution.

    The batch normalisation that follows a convolution and nothing else moves into the block; an identity takes its
    place. Convolutions that cannot be expanded are left alone: `expandable` gives the reasons. The result carries an
    Origin that a checkpoint stores, so that `fuse` and `load` know what was inserted.

    Args:
        model: any module; it is not changed.
        branches: a preset name, a list of branch names (those that a layer cannot have are left out there), or an
            Architecture, whose layers say where.
        where: a glob on module names, a module type, or ``f(name, module) -> bool``.
        scaled: whether alpha and beta weigh the branches; default: as the preset says, True for an Architecture.
        preserve: start the branches at zero (gamma of their last batch normalisation), so that the outputs in eval mode
            are those of `model`.

    Raises:
        ArchitectureError: unknown preset, branch or layer, or a branch that a layer cannot have.
        ModelError: nothing matches.
    """
    possible = expandable(model)
    followers = _following_bn(model)
    layers = []
    if isinstance(branches, Architecture):
        for name in branches.layers:
            reason = possible.get(name, "no such layer in the network")
            if reason is not None:
                raise ArchitectureError(f"cannot insert branches: {reason}", where=name)
            layers.append((name, branches.kept(name)))
        weighed = True if scaled is None else scaled
    else:
        preset = preset_of(branches if isinstance(branches, str) else tuple(branches))
        weighed = preset.scaled if scaled is None else scaled
        for name, reason in possible.items():
            module = model.get_submodule(name)
            if reason is None and _matches(where, name, module):
                assert isinstance(module, nn.Conv2d)
                layers.append((name, possible_branches(Geometry.of(module), preset.branches)))
    if not layers:
        raise ModelError(
            f"no convolution to insert branches at: {len(possible)} convolutions, none chosen by where={where!r} fits",
            hint="irepdeploy.reparam.insert.expandable(model) gives the reason for each",
        )
    inserted = [
        InsertedLayer(name, followers.get(name), kept, weighed, model.get_submodule(name).bias is not None)
        for name, kept in layers
    ]
    result = insert_layers(model, inserted)
    if preserve:
        _silence(result, {layer.name for layer in inserted})
    return result


def expandable(model: nn.Module) -> dict[str, str | None]:
    """Every convolution of `model` outside RepBlocks, with the reason why it cannot be expanded, or None."""
    found: dict[str, str | None] = {}
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, RepBlock))
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and not name.startswith(inside):
            found[name] = refusal(module)
    return found


def insert_layers(model: nn.Module, layers: Sequence[InsertedLayer]) -> nn.Module:
    """A new network with exactly these RepBlocks; what `insert_branches` and loading a checkpoint have in common.

    Raises:
        ArchitectureError: a layer is not there, or cannot be expanded so.
    """

    def block(conv: nn.Conv2d, bn: nn.BatchNorm2d | None, layer: InsertedLayer) -> nn.Module:
        made = RepBlock(copy.deepcopy(conv), copy.deepcopy(bn), layer.branches, scaled=layer.scaled)
        return made.train(conv.training)

    result = _replace(model, layers, block)
    return set_origin(result, origin_of(model), layers=(*origin_of(model).layers, *layers), state=TRAIN)


def plain_layers(model: nn.Module, layers: Sequence[InsertedLayer]) -> nn.Module:
    """A new network with the fused structure of these layers: a convolution with bias, an identity for its BN.

    The values are those of a fresh convolution: this is what a fused checkpoint is loaded into.
    """

    def plain(conv: nn.Conv2d, bn: nn.BatchNorm2d | None, layer: InsertedLayer) -> nn.Module:
        return plain_conv(Geometry.of(conv), like=conv)

    result = _replace(model, layers, plain)
    return set_origin(result, origin_of(model), layers=tuple(layers), state=FUSED)


def plain_conv(geometry: Geometry, like: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution with bias of this geometry, in the dtype, on the device and in the mode of `like`."""
    conv = nn.Conv2d(
        geometry.in_channels,
        geometry.out_channels,
        3,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        bias=True,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    return conv.train(like.training)


def _replace(
    model: nn.Module,
    layers: Sequence[InsertedLayer],
    make: Callable[[nn.Conv2d, nn.BatchNorm2d | None, InsertedLayer], nn.Module],
) -> nn.Module:
    # deepcopy takes what it finds in its memo for the copy of that object: wherever a module is used, also twice, its
    # replacement stands afterwards, and what is replaced is never copied.
    memo: dict[int, Any] = {}
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    for layer in layers:
        conv = modules.get(layer.name)
        bn = None if layer.bn is None else modules.get(layer.bn)
        if not isinstance(conv, nn.Conv2d) or (layer.bn is not None and not isinstance(bn, nn.BatchNorm2d)):
            raise ArchitectureError("the network has no such convolution and batch normalisation", where=layer.name)
        reason = refusal(conv)
        if reason is not None:
            raise ArchitectureError(f"cannot stand for this convolution: {reason}", where=layer.name)
        try:
            memo[id(conv)] = make(conv, bn if isinstance(bn, nn.BatchNorm2d) else None, layer)
        except ArchitectureError as error:
            raise ArchitectureError(error.what, where=layer.name, hint=error.hint) from None
        if bn is not None:
            memo[id(bn)] = nn.Identity().train(bn.training)
    return copy.deepcopy(model, memo)


def _matches(where: Where, name: str, module: nn.Module) -> bool:
    if isinstance(where, str):
        return fnmatch.fnmatchcase(name, where)
    if isinstance(where, type):
        return isinstance(module, where)
    return bool(where(name, module))


class _Tracer(torch.fx.Tracer):
    """Torch's own modules and RepBlocks are leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, RepBlock) or super().is_leaf_module(m, module_qualified_name)


def _following_bn(model: nn.Module) -> dict[str, str]:
    """By convolution, the batch normalisation that alone reads its output and reads nothing else."""
    try:
        graph = _Tracer().trace(model)
    except Exception:  # whatever a foreign forward raises under tracing
        # Not traceable: no batch normalisation moves, which is right for every network, only less usual.
        return {}
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    followers: dict[str, set[str | None]] = {}
    readers: dict[str, set[str | None]] = {}
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        module = modules[node.target]
        name = names[id(module)]
        if isinstance(module, nn.Conv2d):
            next_names: set[str | None] = set()
            for user in node.users:
                target = modules.get(user.target) if user.op == "call_module" else None
                next_names.add(names[id(target)] if isinstance(target, nn.BatchNorm2d) else None)
            followers.setdefault(name, set()).update(next_names or {None})
        elif isinstance(module, nn.BatchNorm2d):
            source: Any = node.args[0] if node.args else None
            is_module = isinstance(source, torch.fx.Node) and source.op == "call_module"
            before = modules.get(str(source.target)) if is_module else None
            readers.setdefault(name, set()).add(names[id(before)] if isinstance(before, nn.Conv2d) else None)
    pairs = {}
    for conv_name, bns in followers.items():
        bn_name = next(iter(bns))
        if len(bns) == 1 and bn_name is not None and readers.get(bn_name) == {conv_name}:
            bn = modules[bn_name]
            if type(bn) is nn.BatchNorm2d and bn.track_running_stats and bn.affine:
                pairs[conv_name] = bn_name
    return pairs


def _silence(model: nn.Module, names: set[str]) -> None:
    for name, block in model.named_modules():
        if name in names and isinstance(block, RepBlock):
            for branch in block.branches.values():
                last = [module for module in branch.modules() if isinstance(module, nn.BatchNorm2d)][-1]
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
