"""Open a network from a checkpoint, by name or from memory, and collect facts about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.errors import ArchitectureError, InputError, ModelError, choices
from irepdeploy.files import sha256
from irepdeploy.network.checkpoint import load
from irepdeploy.network.libraries import LibraryName, library_name, open_library_network
from irepdeploy.network.nets import NETS, build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.origin import TRAIN, Origin, origin_of, set_origin
from irepdeploy.reparam.structure import copied
from irepdeploy.reparam.wrappers import refuse_uninitialized, unwrapped

__all__ = ["Source", "branches_digest", "open_source", "with_blocks"]


@dataclass(frozen=True)
class Source:
    """A network and where it comes from.

    Attributes:
        model: The network, in eval mode and on the CPU.
        label: Its file, name or class.
        facts: Facts for certificates and records.
    """

    model: nn.Module
    label: str
    facts: dict[str, Any]

    @property
    def origin(self) -> Origin:
        """The network's Origin."""
        return origin_of(self.model)


def open_source(
    source: str | os.PathLike[str] | nn.Module,
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    architecture: Architecture | None = None,
) -> Source:
    """Open a network.

    Args:
        source: A checkpoint, the name of a network, which gets seeded random weights and statistics unless a library
            provides pretrained ones, or a network in memory, which is copied if it is in train mode or not on the CPU.
        model_factory: Function that builds the class of a foreign checkpoint.
        seed: Seed of the random values.
        architecture: Branches to insert, with random values.

    Raises:
        InputError: There is no such file or network, the file is damaged or is an ONNX model, or the Architecture does
            not fit.
        MissingError: The network belongs to a library that is not installed, or its weights cannot be downloaded.
    """
    if isinstance(source, nn.Module):
        return _from_memory(source, seed, architecture)
    text = os.fspath(source)
    if text in NETS and not os.path.isfile(text):
        return _by_name(text, seed, architecture)
    asked = library_name(text)
    if asked is not None and not os.path.isfile(text):
        return _from_library(text, asked, seed, architecture)
    path = Path(text)
    if path.suffix.lower() == ".onnx":
        raise InputError(
            "expected a checkpoint or the name of a network, got an ONNX model",
            where=text,
            hint="`irepdeploy export`, `verify` and `inspect` take ONNX models",
        )
    if not path.exists() and path.suffix == "" and len(path.parts) == 1:
        raise InputError("no such checkpoint or network", where=text, hint=choices(text, NETS))
    with ThreadPoolExecutor(1) as pool:
        # Hash the file in parallel, since reading and hashing release the GIL.
        digest = pool.submit(sha256, path)
        model = load(path, model=model_factory)
    drawn = origin_of(model).statistics
    statistics = drawn if drawn.startswith(("random", "pretrained", "from the file")) else "from the checkpoint"
    if architecture is not None:
        model, statistics = _inserted(model, architecture, seed, statistics)
    return _described(model, text, statistics, file=text, sha256=digest.result())


def with_blocks(model: nn.Module) -> nn.Module | None:
    """Return `model` with RepBlocks, so that fusing folds its batch normalizations, or None if it cannot have any.

    The ONNX writer folds the remaining batch normalizations.
    """
    if any(isinstance(module, RepBlock) for module in model.modules()):
        return model
    if origin_of(model).state != TRAIN:
        return None
    try:
        return insert_branches(model, "none")
    except (ArchitectureError, ModelError):  # no convolution that fits, or a network that cannot be copied
        return None


def branches_digest(origin: Origin) -> str | None:
    """Return the digest of the inserted branches, or None if there are none."""
    return origin.architecture.digest if any(layer.branches for layer in origin.layers) else None


def _by_name(name: str, seed: int, architecture: Architecture | None) -> Source:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name) if architecture is None else build(name, branches=architecture)
        randomize_statistics(model, seed).eval()
    statistics = f"random, seed {seed}"
    set_origin(model, statistics=statistics)
    # Without an Architecture, the name and the seed are enough to build the network again.
    return _described(model, name, statistics, **({"seed": seed} if architecture is None else {}))


def _from_library(text: str, asked: LibraryName, seed: int, architecture: Architecture | None) -> Source:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, statistics = open_library_network(asked)
    if asked.random:
        randomize_statistics(model, seed)
        statistics = f"random, seed {seed}"
    set_origin(model, statistics=statistics)
    if architecture is not None:
        model, statistics = _inserted(model, architecture, seed, statistics)
    known = {"seed": seed} if asked.random and architecture is None else {}
    return _described(model, text, statistics, library=asked.text, **known)


def _from_memory(model: nn.Module, seed: int, architecture: Architecture | None) -> Source:
    model = unwrapped(model)
    refuse_uninitialized(model)
    if any(module.training for module in model.modules()) or any(
        tensor.device.type != "cpu" for tensor in (*model.parameters(), *model.buffers())
    ):
        model = copied(model).cpu().eval()
    drawn = origin_of(model).statistics
    statistics = drawn if drawn.startswith(("random", "pretrained")) else "from the network given"
    if architecture is not None:
        model, statistics = _inserted(model, architecture, seed, statistics)
    return _described(model, type(model).__name__, statistics)


def _inserted(model: nn.Module, architecture: Architecture, seed: int, statistics: str) -> tuple[nn.Module, str]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = insert_branches(model, architecture).eval()
    return model, f"{statistics}, branches fresh, seed {seed}"


def _described(model: nn.Module, label: str, statistics: str, **known: Any) -> Source:
    origin = origin_of(model)
    facts: dict[str, Any] = {
        "file": None,
        "sha256": None,
        **known,
        "net": origin.net,
        "factory": origin.factory,
        "state": origin.state,
        "architecture": branches_digest(origin),
        "branches": sum(len(module.active) for module in model.modules() if isinstance(module, RepBlock)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "statistics": statistics,
        "dataset": origin.dataset,
    }
    return Source(model, label, facts)
