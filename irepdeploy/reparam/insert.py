"""Insert branches beside the convolutions of any network."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch.fx
from torch import nn

from irepdeploy.arch import Architecture
from irepdeploy.errors import ArchitectureError, ModelError
from irepdeploy.origin import FUSED, TRAIN, InsertedLayer, Origin, origin_of, set_origin
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.geometry import Geometry, refusal
from irepdeploy.reparam.normalisation import NORMS
from irepdeploy.reparam.presets import Preset, preset_of
from irepdeploy.reparam.published import PUBLISHED
from irepdeploy.reparam.structure import has_hooks, insert_layers
from irepdeploy.reparam.tracer import Tracer
from irepdeploy.wrappers import unwrapped

__all__ = ["Branches", "Where", "expandable", "insert_branches", "matches"]

Branches = str | Sequence[str] | Architecture
Where = str | type[nn.Module] | Callable[[str, nn.Module], bool]


def insert_branches(
    model: nn.Module,
    branches: Branches = "ireps",
    where: Where = "*",
    *,
    scaled: bool | None = None,
    preserve: bool = False,
) -> nn.Module:
    """A new network with a RepBlock in the place of each chosen convolution.

    The batch normalisation that follows a convolution and nothing else moves into the block; an identity takes its
    place. Convolutions that cannot be expanded are left alone: `expandable` gives the reasons. The result carries an
    Origin that a checkpoint stores, so that `fuse` and `load` know what was inserted. A fused network gets its branches
    back in the same way, beside the convolutions as they are.

    Args:
        model: any module; it is not changed. What DistributedDataParallel, torch.compile and the like wrap around it is
            taken off.
        branches: a preset, one of the paper's published Architectures (``irep-resnet18``), a list of branch names
            (those that a layer cannot have are left out there), or an Architecture, whose layers say where.
        where: a glob on the names of convolutions or the name of a module that holds some, a type of convolution or of
            a module that holds some, or ``f(name, convolution) -> bool``.
        scaled: whether alpha and beta weigh the branches; default: as the preset says, True for an Architecture.
        preserve: start the branches at zero (gamma of their last batch normalisation), so that the outputs in eval mode
            are those of `model`.

    Raises:
        ArchitectureError: unknown preset, branch or layer, or a branch that a layer cannot have.
        ModelError: nothing matches, or the network cannot be copied.
    """
    model = unwrapped(model)
    if isinstance(branches, str) and branches in PUBLISHED:
        branches = PUBLISHED[branches]
    if isinstance(branches, Architecture):
        inserted = _layers_of_architecture(model, branches, True if scaled is None else scaled)
    else:
        preset = preset_of(branches if isinstance(branches, str) else tuple(branches))
        inserted = _layers_of_preset(model, preset, where, preset.scaled if scaled is None else scaled)
    result = insert_layers(model, inserted)
    set_origin(result, _with_layers(origin_of(model), inserted))
    if preserve:
        _silence(result, {layer.name for layer in inserted})
    return result


def expandable(model: nn.Module, branches: str | Sequence[str] | None = None) -> dict[str, str | None]:
    """Every convolution of `model` outside RepBlocks, with the reason why it cannot be expanded, or None.

    Args:
        branches: a preset or a list of branches; what these leave alone has a reason too.
    """
    preset = None if branches is None else preset_of(branches if isinstance(branches, str) else tuple(branches))
    return {name: _reason(conv, preset) for name, conv in _convolutions(unwrapped(model))}


def matches(model: nn.Module, where: Where, name: str) -> bool:
    """Whether `where` chooses the module of this name, as `insert_branches` says it."""
    module = model.get_submodule(name)
    parts = name.split(".")
    parents = [".".join(parts[:count]) for count in range(1, len(parts))]
    if isinstance(where, str):
        return fnmatch.fnmatchcase(name, where) or where in parents
    if isinstance(where, type):
        return isinstance(module, where) or any(isinstance(model.get_submodule(parent), where) for parent in parents)
    return bool(where(name, module))


def _layers_of_architecture(model: nn.Module, architecture: Architecture, scaled: bool) -> list[InsertedLayer]:
    possible = expandable(model)
    for name in architecture.layers:
        reason = possible.get(name, "no such convolution in the network")
        if name not in possible and isinstance(dict(model.named_modules()).get(name), RepBlock):
            reason = "it has branches already; fuse the network first, or take the plain one"
        if reason is not None:
            raise ArchitectureError(f"cannot insert branches: {reason}", where=name)
    return _described(model, {name: architecture.kept(name) for name in architecture.layers}, scaled)


def _layers_of_preset(model: nn.Module, preset: Preset, where: Where, scaled: bool) -> list[InsertedLayer]:
    chosen, reasons = {}, dict[str, str]()
    for name, conv in _convolutions(model):
        if not matches(model, where, name):
            continue
        reason = _reason(conv, preset)
        if reason is None:
            assert isinstance(conv, nn.Conv2d)
            chosen[name] = preset.beside(Geometry.of(conv)) or ()
        else:
            reasons.setdefault(reason, name)
    if not chosen:
        raise _nothing_chosen(model, where, reasons)
    return _described(model, chosen, scaled, own_bn=preset.own_bn)


def _described(
    model: nn.Module, chosen: dict[str, tuple[str, ...]], scaled: bool, *, own_bn: bool = False
) -> list[InsertedLayer]:
    followers = {} if own_bn else _following_bn(model)
    origin = origin_of(model)
    fused = {layer.name: layer for layer in origin.layers if origin.state == FUSED or layer.fused}
    layers = []
    for name, names in chosen.items():
        before = fused.get(name)
        has_bias = model.get_submodule(name).bias is not None
        layers.append(
            InsertedLayer(
                name,
                followers.get(name) if before is None else before.bn,
                names,
                scaled,
                has_bias if before is None else before.bias,
                own_bn=own_bn,
                folded=before is not None,
            )
        )
    return layers


def _with_layers(origin: Origin, inserted: Sequence[InsertedLayer]) -> Origin:
    """The Origin after these were inserted too: what was fused before and is not among them stays fused."""
    layers = {layer.name: replace(layer, fused=True) if origin.state == FUSED else layer for layer in origin.layers}
    layers.update({layer.name: layer for layer in inserted})
    return replace(origin, layers=tuple(layers.values()), state=TRAIN)


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside = tuple(f"{name}." if name else "" for name, module in model.named_modules() if isinstance(module, RepBlock))
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and not name.startswith(inside):
            yield name, module


def _reason(conv: nn.Module, preset: Preset | None) -> str | None:
    reason = refusal(conv)
    if reason is not None or preset is None:
        return reason
    assert isinstance(conv, nn.Conv2d)
    geometry = Geometry.of(conv)
    names = preset.beside(geometry)
    if names is None:
        sizes = " and ".join(f"{size}x{size}" for size in preset.kernels)
        return f"kernel {geometry.kernel}x{geometry.kernel}; these branches stand beside {sizes} only"
    if preset.branches and not names:
        return "none of the branches can stand beside it"
    return None


def _nothing_chosen(model: nn.Module, where: Where, reasons: dict[str, str]) -> ModelError:
    count = sum(1 for _ in _convolutions(model))
    if any(isinstance(module, RepBlock) for module in model.modules()) and not reasons:
        text = "no plain convolution is left to insert branches at: the network has branches already"
        return ModelError(text, hint="fuse it first, or take the plain network")
    why = "; ".join(f"{name}: {reason}" for reason, name in list(reasons.items())[:3])
    text = f"no convolution to insert branches at: {count} convolutions, none chosen by where={where!r} fits"
    return ModelError(f"{text} ({why})" if why else text, hint="ird.expandable(model) gives the reason for each")


def _following_bn(model: nn.Module) -> dict[str, str]:
    """By convolution, the batch normalisation that alone reads its output and reads nothing else."""
    try:
        graph = Tracer().trace(model)
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
                next_names.add(names[id(target)] if isinstance(target, NORMS) else None)
            followers.setdefault(name, set()).update(next_names or {None})
        elif isinstance(module, NORMS):
            source: Any = node.args[0] if node.args else None
            is_module = isinstance(source, torch.fx.Node) and source.op == "call_module"
            before = modules.get(str(source.target)) if is_module else None
            readers.setdefault(name, set()).add(names[id(before)] if isinstance(before, nn.Conv2d) else None)
    pairs = {}
    for conv_name, bns in followers.items():
        bn_name = next(iter(bns))
        if len(bns) == 1 and bn_name is not None and readers.get(bn_name) == {conv_name}:
            bn = modules[bn_name]
            # What watches either of the two is to see the same as before.
            watched = has_hooks(bn) or has_hooks(modules[conv_name])
            if type(bn) in NORMS and bn.track_running_stats and bn.affine and not watched:
                pairs[conv_name] = bn_name
    return pairs


def _silence(model: nn.Module, names: set[str]) -> None:
    for name, block in model.named_modules():
        if name in names and isinstance(block, RepBlock):
            for branch in block.branches.values():
                last = [module for module in branch.modules() if isinstance(module, NORMS)][-1]
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
