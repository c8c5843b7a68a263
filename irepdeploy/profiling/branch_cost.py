"""Compare the training cost of the plain network, the given network, and each preset of branches."""

from __future__ import annotations

import copy
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import ArchitectureError, InputError, MissingError, ModelError, RunError, choices, one_line
from irepdeploy.limits import check_memory
from irepdeploy.network.checkpoint import save
from irepdeploy.network.factory import Factory, built, remembered
from irepdeploy.network.nets import build_plain
from irepdeploy.network.source import Source
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.profiling.training_cost import PeakMemory, StepTime, peak_memory, step_times
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.origin import FUSED, Origin, origin_of, set_origin
from irepdeploy.reparam.presets import PRESETS
from irepdeploy.reparam.published import PUBLISHED
from irepdeploy.runtime.memory import is_out_of_memory

__all__ = ["BranchCost", "BranchCosts", "CostRequest", "branch_costs"]

_SAMPLES = 5


@dataclass(frozen=True)
class CostRequest:
    """Parameters of a measurement.

    Attributes:
        presets: Names of presets or of published Architectures. Defaults to all presets that fit the network.
        batch_size: Number of images per step.
        memory_bytes: Memory into which training must fit. Defaults to no limit.
        device: "cpu" or "cuda". Defaults to "cuda" if available.
    """

    presets: tuple[str, ...] | None = None
    batch_size: int = 32
    memory_bytes: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class BranchCost:
    """Cost of one variant of the network.

    Attributes:
        name: Preset, or role of the network; several names if they describe the same network.
        branches: Number of active branches.
        params: Number of parameters in train state.
        macs: MACs of one input in train state.
        time: Time of a step, or None if memory ran out.
        memory: Peak memory of training.
        fits: Whether the peak memory is within `CostRequest.memory_bytes`, or None if either is unknown.
    """

    name: str
    branches: int
    params: int
    macs: int | None
    time: StepTime | None
    memory: PeakMemory
    fits: bool | None


@dataclass(frozen=True)
class BranchCosts:
    """Measured costs, the conditions of the measurement, and notes on the limits of the figures."""

    batch_size: int
    memory_bytes: int | None
    device: str
    device_name: str
    threads: int
    rows: list[BranchCost]
    notes: list[str]


def branch_costs(
    source: Source,
    request: CostRequest,
    *,
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    display: ProgressDisplay | None = None,
) -> BranchCosts:
    """Measure a training step of the plain network, of the network as it is, and of the network with each preset.

    Presets replace the branches of the network. If it has none, they are inserted wherever possible, in a fused network
    beside its fused convolutions. Weights are random. Peak memory is measured in a separate process for each variant;
    steps are timed alternately (A B A B) in this process.

    Args:
        source: The network.
        request: Parameters of the measurement.
        model_factory: Function that builds a foreign class; other processes must be able to import it by name.
        seed: Seed of the weights and of the order of the steps.
        display: Display that shows the progress.

    Raises:
        InputError: A preset is unknown or fits nowhere, the network has no input shape or does not run on it, or a
            foreign class has no importable factory.
        MissingError: CUDA was requested and is not available.
        RunError: A training step failed for another reason than memory.
    """
    if not source.origin.input_shape:
        raise InputError(
            "it has no input shape, so it cannot be trained here",
            where=source.label,
            hint="irepdeploy.save(net, path, input_shape=(C, H, W))",
        )
    known = (*PRESETS, *PUBLISHED)
    for name in request.presets or ():
        if name not in known:
            raise ArchitectureError(f"unknown preset {name!r}", hint=choices(name, known))
    images = 4 * request.batch_size * math.prod(source.origin.input_shape)
    check_memory(images, f"a batch of {request.batch_size:,}", "--batch")
    device = _device(request.device)
    if model_factory is None:
        model_factory = remembered(source.origin)
    factory = None if source.origin.net is not None else _factory_name(source, model_factory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        nets = _networks(source, request.presets, model_factory)
    counts = {name: _counted(net, source) for name, net in nets.items()}
    memories = _memories(nets, request.batch_size, device, factory, display)
    fitting = {name: net for name, net in nets.items() if not memories[name].out_of_memory}
    times, notes = _times(fitting, request.batch_size, device, seed, display)
    rows = [
        BranchCost(
            name,
            sum(len(module.active) for module in net.modules() if isinstance(module, RepBlock)),
            counts[name].params,
            counts[name].macs,
            times.get(name),
            memories[name],
            _fits(memories[name], request.memory_bytes),
        )
        for name, net in nets.items()
    ]
    return BranchCosts(
        request.batch_size,
        request.memory_bytes,
        device,
        torch.cuda.get_device_name() if device == "cuda" else "CPU",
        torch.get_num_threads(),
        rows,
        [*_notes(source, device), *notes],
    )


def _networks(
    source: Source, presets: Sequence[str] | None, model_factory: Callable[[], nn.Module] | None
) -> dict[str, nn.Module]:
    """Return every network in train state by the name of its row; identical networks share a row."""
    origin, model = source.origin, source.model
    layers = {layer.name for layer in origin.layers}
    branched = any(isinstance(module, RepBlock) for module in model.modules())
    # Copied, because timing trains the networks.
    base = _plain(origin, model, model_factory) if branched else copy.deepcopy(model)
    found: dict[frozenset[Any], tuple[list[str], nn.Module]] = {}

    def add(name: str, net: nn.Module) -> None:
        kept = {(layer.name, layer.branches, layer.scaled, layer.own_bn) for layer in origin_of(net).layers}
        key = frozenset(layer for layer in kept if net is not base and layer[1])
        found.setdefault(key, ([], net))[0].append(name)

    add("fused, as it is" if origin.state == FUSED else "plain", base)
    if branched:
        add("as it is", copy.deepcopy(model))
    for name in PRESETS if presets is None else presets:
        try:
            net = insert_branches(base, name, where=lambda layer, conv: not layers or layer in layers)
        except (ArchitectureError, ModelError):
            if presets is not None:
                raise
        else:
            if presets is not None or PRESETS[name].branches:
                add(name, net)
    return {", ".join(names): net for names, net in found.values()}


def _plain(origin: Origin, model: nn.Module, model_factory: Callable[[], nn.Module] | None) -> nn.Module:
    """Return the network before its branches were inserted."""
    if origin.net is not None:
        base = build_plain(origin.net, **origin.args)
    else:
        assert model_factory is not None  # ensured by _factory_name
        base = set_origin(
            built(model_factory, origin, origin.factory), Origin(factory=origin.factory, args=origin.args)
        )
    like = next(model.parameters())
    return set_origin(base.to(like.dtype), input_shape=origin.input_shape)


def _memories(
    nets: dict[str, nn.Module], batch_size: int, device: str, factory: str | None, display: ProgressDisplay | None
) -> dict[str, PeakMemory]:
    task = None if display is None else display.task("peak memory", len(nets))
    found = {}
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as folder:
        for name, net in nets.items():
            path = save(net, Path(folder, "network.pt"))
            try:
                found[name] = peak_memory(path, batch_size, device=device, factory=factory)
            except RunError as error:
                raise RunError(error.what, where=name, hint=error.hint) from None
            if task is not None:
                task.advance(note=name)
    return found


def _times(
    nets: dict[str, nn.Module], batch_size: int, device: str, seed: int, display: ProgressDisplay | None
) -> tuple[dict[str, StepTime], list[str]]:
    if not nets:
        return {}, []
    task = None if display is None else display.task("seconds per step", 100)
    done = 0

    def on_round(share: float) -> None:
        nonlocal done
        steps = int(share * 100) - done
        if task is not None and steps > 0:
            task.advance(steps)
            done += steps

    try:
        return step_times(nets, batch_size, device=device, min_samples=_SAMPLES, seed=seed, on_round=on_round), []
    except Exception as error:  # torch and Python raise several types when memory runs out
        if not is_out_of_memory(error):
            raise
        return {}, ["The steps could not be timed: memory ran out with all networks loaded at once."]


def _device(wanted: str | None) -> str:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise MissingError("torch sees no CUDA device here", hint="--device cpu")
    return wanted or ("cuda" if there else "cpu")


def _factory_name(source: Source, factory: Callable[[], nn.Module] | None) -> str:
    """Return the name ``package.module:function`` under which another process can import a factory."""
    if isinstance(factory, Factory):
        return factory.spec
    if factory is None:
        raise InputError(
            "memory is measured in separate processes, which must be able to build the network",
            where=source.label,
            hint="name a function of a module that builds it: --model package.module:factory",
        )
    module, name = getattr(factory, "__module__", ""), getattr(factory, "__qualname__", "")
    if module == "__main__" or getattr(sys.modules.get(module), name, None) is not factory:
        raise InputError(
            f"other processes cannot import the factory {name or factory!r}",
            where=source.label,
            hint="put it at the top level of a module of its own",
        )
    return f"{module}:{name}"


def _counted(net: nn.Module, source: Source) -> Counts:
    shape = source.origin.input_shape
    try:
        return count(net, shape)
    except Exception as error:  # a foreign forward may raise anything
        reason = one_line(error)
        raise InputError(
            f"the network does not run on inputs of shape {shape}: {reason}", where=source.label
        ) from error


def _fits(memory: PeakMemory, limit: int | None) -> bool | None:
    if limit is None:
        return None
    if memory.out_of_memory:
        return False
    return None if memory.peak_bytes is None else memory.peak_bytes <= limit


def _notes(source: Source, device: str) -> list[str]:
    notes = []
    if source.origin.state == FUSED:
        notes.append(
            "The network is fused: branches were inserted beside its fused convolutions, which have no batch "
            "normalization."
        )
    if device == "cuda":
        notes.append(
            "Peak memory is the most that torch allocated on the device, without the CUDA context and the reserve of "
            "the allocator."
        )
    else:
        notes.append(
            "Peak memory is the growth of resident memory of a training process since before the network was loaded; "
            "a GPU needs a different amount."
        )
    return notes
