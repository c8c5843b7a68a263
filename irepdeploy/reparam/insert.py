"""Insert branches beside the convolutions of any network."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from irepdeploy.errors import ArchitectureError, ModelError, counted
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock, Step
from irepdeploy.reparam.geometry import Geometry, refusal
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.origin import FUSED, TRAIN, InsertedLayer, Origin, origin_of, set_origin
from irepdeploy.reparam.presets import Preset, preset_of
from irepdeploy.reparam.published import PUBLISHED
from irepdeploy.reparam.step import set_step
from irepdeploy.reparam.structure import insert_layers
from irepdeploy.reparam.usage import Usage, captured_module, usage_of
from irepdeploy.reparam.wrappers import refuse_uninitialized, unwrapped

__all__ = ["Branches", "Where", "expandable", "insert_branches", "matches", "silence"]

Branches = str | Sequence[str] | Architecture
Where = str | type[nn.Module] | Callable[[str, nn.Module], bool]


def insert_branches(
    model: nn.Module,
    branches: Branches = "ireps",
    where: Where = "*",
    *,
    scaled: bool | None = None,
    preserve: bool = False,
    step: Step = "exact",
) -> nn.Module:
    """Return a new network in which a RepBlock replaces each chosen convolution.

    A batch normalization that is the only reader of a convolution moves into the block and is replaced by an identity.
    Only ``forward`` is traced, in train and eval mode: any other method that calls the convolution without its
    normalization returns different values afterwards. Convolutions that cannot be expanded are skipped; `expandable`
    returns the reasons. The result has an Origin, which checkpoints store, so that `fuse` and `load` know what was
    inserted. Branches can be inserted into a fused network again, beside its present convolutions.

    Args:
        model: Any module; it is not changed. Wrappers such as DistributedDataParallel or torch.compile are removed.
        branches: Name of a preset or of one of the paper's published Architectures (``irep-resnet18``), a list of
            branch names, of which each layer gets the possible ones, or an Architecture. An Architecture may describe
            only a part of the network, such as ``backbone``, and `where` can restrict its layers.
        where: A glob on the names of convolutions, the name or type of a module that contains convolutions, a type of
            convolution, or ``f(name, convolution) -> bool``.
        scaled: Whether alpha and beta scale the branches. Defaults to the preset's choice, and to True for an
            Architecture.
        preserve: Initialize the branches to zero (gamma and beta of their last batch normalization), so that the
            outputs in eval mode equal those of `model`.
        step: How the blocks compute in train mode, "exact" or "merged"; see `set_step`.

    Returns:
        The network with branches, on the same device and in the same mode.

    Raises:
        ArchitectureError: A preset, branch or layer is unknown, or a layer cannot have a branch.
        ModelError: Nothing matches, or the network cannot be copied.
    """
    model = _checked(model, where)
    usage = usage_of(model)
    if isinstance(branches, str) and branches in PUBLISHED:
        branches = PUBLISHED[branches]
    if isinstance(branches, Architecture):
        inserted = _layers_of_architecture(model, branches, where, usage, True if scaled is None else scaled)
    else:
        preset = _preset(branches)
        inserted = _layers_of_preset(model, preset, where, usage, preset.scaled if scaled is None else scaled)
    result = insert_layers(model, inserted)
    set_origin(result, _with_layers(origin_of(model), inserted))
    _check_called(result, usage, [layer.name for layer in inserted])
    if preserve:
        silence(result, {layer.name for layer in inserted})
    return result if step == "exact" else set_step(result, step)


def expandable(model: nn.Module, branches: str | Sequence[str] | None = None) -> dict[str, str | None]:
    """Map every convolution outside RepBlocks to the reason why it cannot be expanded, or to None if it can.

    Args:
        model: Any module; it is not changed.
        branches: A preset or a list of branch names. If given, convolutions that it skips have a reason too.

    Raises:
        ArchitectureError: A preset or branch is unknown.
        ModelError: The network cannot have branches.
    """
    model = _checked(model, "*")
    preset = None if branches is None else _preset(branches)
    usage = usage_of(model)
    return {name: _reason(name, conv, usage, preset) for name, conv in _convolutions(model)}


def matches(model: nn.Module, where: Where, name: str) -> bool:
    """Return whether `where` selects the module called `name`, as in `insert_branches`."""
    module = model.get_submodule(name)
    if isinstance(where, str | type):
        # A module that is used in several places can be selected by any of its names.
        names = [other for other, each in model.named_modules(remove_duplicate=False) if each is module]
        return any(_named(model, where, other) for other in names)
    return bool(where(name, module))


def _named(model: nn.Module, where: str | type[nn.Module], name: str) -> bool:
    parts = name.split(".")
    parents = [".".join(parts[:count]) for count in range(len(parts))]
    if isinstance(where, str):
        return fnmatch.fnmatchcase(name, where) or where in parents[1:]
    return any(isinstance(model.get_submodule(each), where) for each in (*parents, name))


def _checked(model: nn.Module, where: Where) -> nn.Module:
    """Return the unwrapped `model`, or raise ModelError if it cannot have branches."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    refuse_uninitialized(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("a scripted network has no modules to replace", hint="insert before scripting")
    if not isinstance(where, str) and not callable(where):
        raise ModelError(f"expected a glob, a name, a type or a function f(name, module), got {where!r}", where="where")
    bound = captured_module(model)
    if bound is not None:
        raise ModelError(
            "a function that holds modules of the network itself: a copy would keep using the original ones",
            where=bound,
            hint="make it a method",
        )
    return model


def _preset(branches: object) -> Preset:
    if isinstance(branches, str) or (isinstance(branches, Sequence) and all(isinstance(b, str) for b in branches)):
        return preset_of(branches if isinstance(branches, str) else tuple(branches))
    raise ArchitectureError(
        f"expected branches, got {branches!r}", hint="a preset, a list of branch names, or an Architecture"
    )


def _check_called(result: nn.Module, usage: Usage, names: Sequence[str]) -> None:
    """Raise ModelError if ``forward`` called a convolution but does not call the block that replaced it."""
    after = usage_of(result)
    if not usage.traced or not after.traced:
        return
    for name in names:
        if name in usage.called and name not in after.called:
            raise ModelError(
                "forward does not call the block that replaces this convolution",
                where=name,
                hint="does it check isinstance(module, nn.Conv2d)? exclude the layer with where=...",
            )


def _layers_of_architecture(
    model: nn.Module, architecture: Architecture, where: Where, usage: Usage, scaled: bool
) -> list[InsertedLayer]:
    possible = {name: _reason(name, conv, usage, None) for name, conv in _convolutions(model)}
    chosen = {}
    prefix = _part(model, architecture, where, possible)
    for layer in architecture.layers:
        name = f"{prefix}{layer}"
        reason = possible.get(name, "no such convolution in the network")
        if name not in possible and isinstance(dict(model.named_modules()).get(name), RepBlock):
            reason = "it already has branches; fuse the network first, or use the plain one"
        if reason is not None:
            raise ArchitectureError(f"cannot insert branches: {reason}", where=name)
        if matches(model, where, name):
            chosen[name] = architecture.kept(layer)
    if not chosen:
        raise _nothing_chosen(model, where, {})
    return _described(model, chosen, usage, scaled)


def _part(model: nn.Module, architecture: Architecture, where: Where, possible: Collection[str]) -> str:
    """Return the prefix of the part of the network that the Architecture describes; "" is the whole network."""
    if not architecture.layers or any(name in possible for name in architecture.layers):
        return ""
    first = architecture.layers[0]
    prefixes = [name.removesuffix(first) for name in possible if name.endswith(f".{first}")]
    fitting = [prefix for prefix in prefixes if all(f"{prefix}{layer}" in possible for layer in architecture.layers)]
    found = [prefix for prefix in fitting if matches(model, where, f"{prefix}{first}")] or fitting
    if len(found) > 1:
        raise ArchitectureError(
            f"the layers match several parts of the network: {', '.join(prefix.rstrip('.') for prefix in found)}",
            where=first,
            hint="choose one with where=NAME",
        )
    return found[0] if found else ""


def _layers_of_preset(
    model: nn.Module, preset: Preset, where: Where, usage: Usage, scaled: bool
) -> list[InsertedLayer]:
    chosen, reasons = {}, dict[str, str]()
    for name, conv in _convolutions(model):
        if not matches(model, where, name):
            continue
        reason = _reason(name, conv, usage, preset)
        if reason is None:
            assert isinstance(conv, nn.Conv2d)
            chosen[name] = preset.beside(Geometry.of(conv)) or ()
        else:
            reasons.setdefault(reason, name)
    if not chosen:
        raise _nothing_chosen(model, where, reasons)
    return _described(model, chosen, usage, scaled, own_bn=preset.own_bn)


def _described(
    model: nn.Module, chosen: dict[str, tuple[str, ...]], usage: Usage, scaled: bool, *, own_bn: bool = False
) -> list[InsertedLayer]:
    followers = {} if own_bn else usage.followers
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
    """Return the Origin after this insertion; fused layers without new branches stay fused."""
    layers = {layer.name: replace(layer, fused=True) if origin.state == FUSED else layer for layer in origin.layers}
    layers.update({layer.name: layer for layer in inserted})
    return replace(origin, layers=tuple(layers.values()), state=TRAIN)


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside = tuple(f"{name}." if name else "" for name, module in model.named_modules() if isinstance(module, RepBlock))
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd) and not name.startswith(inside):
            yield name, module


def _reason(name: str, conv: nn.Module, usage: Usage, preset: Preset | None) -> str | None:
    reason = refusal(conv)
    if reason is None and name in usage.read:
        reason = "forward reads its weight or bias itself"
    if reason is not None or preset is None:
        return reason
    assert isinstance(conv, nn.Conv2d)
    geometry = Geometry.of(conv)
    names = preset.beside(geometry)
    if names is None:
        sizes = " and ".join(f"{size}x{size}" for size in preset.kernels)
        return f"kernel {geometry.kernel}x{geometry.kernel}; these branches fit only beside {sizes}"
    if preset.branches and not names:
        return "none of the branches is possible beside this convolution"
    return None


def _nothing_chosen(model: nn.Module, where: Where, reasons: dict[str, str]) -> ModelError:
    count = sum(1 for _ in _convolutions(model))
    why = "; ".join(f"{name}: {reason}" for reason, name in list(reasons.items())[:3])
    if any(isinstance(module, RepBlock) for module in model.modules()):
        text = "no plain convolution is left to expand: the network already has branches"
        hint = "fuse it first (`irepdeploy export` writes fused.pt), or use the plain network"
        return ModelError(f"{text}; {why}" if why else text, hint=hint)
    text = f"no convolution to insert branches at: {counted(count, 'convolution')}, none chosen by where={where!r} fits"
    return ModelError(
        f"{text} ({why})" if why else text, hint="irepdeploy.reparam.insert.expandable(model) gives the reason for each"
    )


def silence(model: nn.Module, names: Collection[str]) -> None:
    """Set gamma and beta of the last batch normalization of each branch to zero, in place, in these blocks.

    Raises:
        ArchitectureError: A branch has no batch normalization.
    """
    for name, block in model.named_modules():
        if name in names and isinstance(block, RepBlock):
            for branch in block.branches.values():
                last = [module for module in branch.modules() if isinstance(module, NORMS)][-1:]
                if not last:
                    raise ArchitectureError(
                        f"branch {type(branch).__name__} has no batch normalization that could start at zero",
                        where=name,
                        hint="insert without preserve=True",
                    )
                nn.init.zeros_(last[0].weight)
                nn.init.zeros_(last[0].bias)
