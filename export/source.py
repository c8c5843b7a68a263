"""Source: the network that is exported, from a checkpoint, by name, or from memory."""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import irepdeploy
from irepdeploy.checkpoint import load
from irepdeploy.data import DATASETS, load_dataset
from irepdeploy.errors import InputError, ModelError, NotFusable
from irepdeploy.files import sha256
from irepdeploy.nets import NETS, build
from irepdeploy.nets.statistics import randomize_statistics
from irepdeploy.origin import Origin, origin_of, set_origin
from irepdeploy.reparam.block import RepBlock

__all__ = ["Source", "metadata_of", "open_source"]


@dataclass(frozen=True)
class Source:
    """The network, in eval mode on the CPU, and the facts about it that a certificate keeps."""

    model: nn.Module
    label: str
    facts: dict[str, Any]

    @property
    def origin(self) -> Origin:
        """What the network says of itself."""
        return origin_of(self.model)


def open_source(
    source: str | os.PathLike[str] | nn.Module,
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
) -> Source:
    """Open what is to be exported.

    Args:
        source: a checkpoint, the name of a network (it gets seeded random weights and statistics), or a network.
        model_factory: builds the class of a foreign checkpoint.

    Raises:
        InputError: no such file or network, a damaged file, or an ONNX model.
        NotFusable: a network in train mode.
    """
    if isinstance(source, nn.Module):
        return _from_memory(source)
    text = os.fspath(source)
    if text in NETS and not os.path.isfile(text):
        return _by_name(text, seed)
    path = Path(text)
    if path.suffix.lower() == ".onnx":
        raise InputError(
            "an ONNX model, and export takes a checkpoint or the name of a network",
            where=text,
            hint="`irepdeploy verify` compares ONNX models",
        )
    if not path.exists() and path.suffix == "" and len(path.parts) == 1:
        near = difflib.get_close_matches(text, NETS, n=3)
        raise InputError(
            "no such checkpoint, and no such network",
            where=text,
            hint=f"did you mean {' or '.join(near)}?" if near else f"networks: {', '.join(NETS)}",
        )
    model = load(path, model=model_factory)
    drawn = origin_of(model).statistics
    statistics = drawn if drawn.startswith("random") else "from the checkpoint"
    return _described(model, text, statistics, file=text, sha256=sha256(path))


def metadata_of(origin: Origin) -> dict[str, str]:
    """What the ONNX file says of itself; nothing in it changes from one export to the next."""
    found: dict[str, Any] = {"version": irepdeploy.__version__, "net": origin.net or origin.factory}
    if _digest(origin):
        found["architecture"] = _digest(origin)
    if origin.statistics.startswith("random"):
        found["statistics"] = origin.statistics
    classes: tuple[str, ...] = origin.classes
    if origin.dataset in DATASETS:
        data = load_dataset(origin.dataset)
        classes = classes or data.classes
        found.update(dataset=data.name, mean=list(data.mean), std=list(data.std))
    if classes:
        found["classes"] = list(classes)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items() if value}
    return {f"irepdeploy.{key}": text for key, text in texts.items()}


def _by_name(name: str, seed: int) -> Source:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = randomize_statistics(build(name), seed).eval()
    statistics = f"random, seed {seed}"
    set_origin(model, statistics=statistics)
    return _described(model, name, statistics)


def _from_memory(model: nn.Module) -> Source:
    if any(module.training for module in model.modules()):
        raise NotFusable("the network is in train mode", where=type(model).__name__, hint="call model.eval() first")
    if any(tensor.device.type != "cpu" for tensor in (*model.parameters(), *model.buffers())):
        model = copy.deepcopy(model).cpu()
    drawn = origin_of(model).statistics
    return _described(model, type(model).__name__, drawn if drawn.startswith("random") else "from the network given")


def _described(model: nn.Module, label: str, statistics: str, **file: str) -> Source:
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    if kinds - {"float32"}:
        raise ModelError(
            f"weights are {' and '.join(sorted(kinds))}, and export takes float32",
            where=label,
            hint="irepdeploy.save(net.float(), path)",
        )
    origin = origin_of(model)
    facts: dict[str, Any] = {
        "file": None,
        "sha256": None,
        **file,
        "net": origin.net,
        "factory": origin.factory,
        "state": origin.state,
        "architecture": _digest(origin),
        "branches": sum(len(module.active) for module in model.modules() if isinstance(module, RepBlock)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "statistics": statistics,
        "dataset": origin.dataset,
    }
    return Source(model, label, facts)


def _digest(origin: Origin) -> str | None:
    """Digest of the inserted branches; None where there are none."""
    return origin.architecture.digest if any(layer.branches for layer in origin.layers) else None
