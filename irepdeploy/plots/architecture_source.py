"""Read an Architecture, with facts about its network, from any kind of source."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.console import log
from irepdeploy.errors import InputError, choices
from irepdeploy.limits import open_file
from irepdeploy.plots.architecture_view import ArchitectureView, in_column_order
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.journal import JOURNAL

if TYPE_CHECKING:
    from torch import nn

    from irepdeploy.reparam.geometry import Geometry

__all__ = ["read_architecture"]


def read_architecture(
    source: str | os.PathLike[str], label: str, *, model_factory: Callable[[], nn.Module] | None = None
) -> ArchitectureView:
    """Read an Architecture from a file, a search or training folder, a checkpoint, or by name.

    For an unfinished search, this is the best candidate of its last evolution.

    Args:
        source: Path or name of the source.
        label: Label for the drawing.
        model_factory: Function that builds the network, for a checkpoint of the user's own class.

    Raises:
        InputError: The source does not exist or has no Architecture.
    """
    from irepdeploy.network.nets import NETS
    from irepdeploy.reparam.published import PUBLISHED

    text = os.fspath(source)
    path = Path(text)
    if text in PUBLISHED and not path.exists():
        net = next(name for name, entry in NETS.items() if entry.branches == text)
        return _view(label, PUBLISHED[text], _geometries(net, {}, PUBLISHED[text].layers))
    if path.is_dir():
        if (path / JOURNAL).is_file() and not (path / "best.pt").is_file():
            return _of_search(path, label)
        if (path / "best.pt").is_file():
            return _of_network(path / "best.pt", label, model_factory)
        raise InputError(
            "neither a search nor a training folder", where=path, hint="`irepdeploy search` writes journal.jsonl"
        )
    if path.suffix.lower() == ".json" or (path.is_file() and text not in NETS and _is_json(path)):
        architecture = Architecture.load(path)
        return _beside_its_search(path, architecture, label)
    if not path.exists() and text not in NETS and path.suffix == "":
        raise InputError(
            "no file, folder, Architecture or network of this name",
            where=text,
            hint=choices(text, PUBLISHED),
        )
    return _of_network(text, label, model_factory)


def _of_search(folder: Path, label: str) -> ArchitectureView:
    run = SearchRun.read(folder)
    best = folder / "best.json"
    if best.is_file():
        return _with_run(Architecture.load(best), run, label)
    return _with_run(run.best_candidate(), run, f"{label}, not finished, evolution {run.evolutions[-1].index + 1}")


def _beside_its_search(path: Path, architecture: Architecture, label: str) -> ArchitectureView:
    for folder in (path.resolve().parent, path.resolve().parent.parent):
        if (folder / JOURNAL).is_file():
            try:
                run = SearchRun.read(folder)
            except InputError as error:
                log(f"drawn without the results of its search: {error.line}")
                continue
            if architecture.layers == run.layers and architecture.branches == run.branches:
                return _with_run(architecture, run, label)
    return ArchitectureView(label, architecture)


def _with_run(architecture: Architecture, run: SearchRun, label: str) -> ArchitectureView:
    net, args = run.net
    channels = {} if net is None else _channels(_geometries(net, args, architecture.layers))
    return ArchitectureView(label, architecture, frozenset(run.positions), channels)


def _of_network(source: str | Path, label: str, model_factory: Callable[[], nn.Module] | None) -> ArchitectureView:
    from irepdeploy.network.source import open_source
    from irepdeploy.reparam.block import RepBlock
    from irepdeploy.reparam.origin import FUSED

    opened = open_source(source, model_factory)
    origin = opened.origin
    modules = dict(opened.model.named_modules())
    if origin.state == FUSED:
        kept = {layer.name: layer.branches for layer in origin.layers}
    else:
        kept = {name: module.active for name, module in modules.items() if isinstance(module, RepBlock)}
    names = {name for row in kept.values() for name in row}
    if not names:
        raise InputError("a network without branches has no Architecture", where=source, hint="try irep_resnet18")
    order = in_column_order(names)
    geometries = {name: found for name in kept if (found := _geometry(modules[name])) is not None}
    return _view(label, Architecture.from_branches(kept, order), geometries)


def _view(label: str, architecture: Architecture, geometries: Mapping[str, Geometry]) -> ArchitectureView:
    from irepdeploy.reparam.branches import branch_class

    possible = frozenset(
        (row, column)
        for row, layer in enumerate(architecture.layers)
        for column, name in enumerate(architecture.branches)
        if layer not in geometries or branch_class(name).impossible(geometries[layer]) is None
    )
    return ArchitectureView(label, architecture, possible, _channels(geometries))


def _geometries(net: str, args: Mapping[str, Any], layers: Sequence[str]) -> dict[str, Geometry]:
    """Return the convolutions of a network in the registry; {} if it is not in the registry or lacks these layers."""
    import torch

    from irepdeploy.network.nets import build_plain

    try:
        with torch.device("meta"):
            modules = dict(build_plain(net, **args).named_modules())
    except InputError:
        return {}
    found = {name: geometry for name in layers if (geometry := _geometry(modules.get(name))) is not None}
    return found if len(found) == len(layers) else {}


def _geometry(module: nn.Module | None) -> Geometry | None:
    from torch import nn

    from irepdeploy.reparam.block import RepBlock
    from irepdeploy.reparam.geometry import Geometry

    if isinstance(module, RepBlock):
        return module.geometry
    return Geometry.of(module) if isinstance(module, nn.Conv2d) else None


def _channels(geometries: Mapping[str, Geometry]) -> dict[str, tuple[int, int, int]]:
    return {name: (found.in_channels, found.out_channels, found.stride[0]) for name, found in geometries.items()}


def _is_json(path: Path) -> bool:
    with open_file(path, "source") as file:
        return file.read(64).lstrip()[:1] == b"{"
