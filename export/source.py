"""The network that is exported, and what its ONNX file says of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from torch import nn

import irepdeploy
from irepdeploy.board.system import UNKNOWN, commit
from irepdeploy.data import dataset_facts
from irepdeploy.errors import ModelError, NotFusable
from irepdeploy.network.source import Source, branches_digest, open_source
from irepdeploy.reparam.origin import Origin

__all__ = ["metadata_of", "open_for_export"]


def open_for_export(
    source: str | os.PathLike[str] | nn.Module,
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
) -> Source:
    """Open what is to be exported: what `open_source` takes, in float32.

    Raises:
        InputError: no such file or network, a damaged file, an ONNX model, or another dtype.
        NotFusable: a network in train mode.
    """
    if isinstance(source, nn.Module) and any(module.training for module in source.modules()):
        raise NotFusable("the network is in train mode", where=type(source).__name__, hint="call model.eval() first")
    opened = open_source(source, model_factory, seed)
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in opened.model.parameters()}
    if kinds - {"float32"}:
        raise ModelError(
            f"weights are {' and '.join(sorted(kinds))}, and export takes float32",
            where=opened.label,
            hint="irepdeploy.save(net.float(), path)",
        )
    return opened


def metadata_of(origin: Origin) -> dict[str, str]:
    """What the ONNX file says of itself; nothing in it changes from one export to the next by the same irepdeploy."""
    found: dict[str, Any] = {"version": irepdeploy.__version__, "net": origin.net or origin.factory}
    git = commit()
    if git["sha"] != UNKNOWN:
        # As `git describe` says it: a changed tree is not the commit.
        found["commit"] = f"{git['sha']}-dirty" if git["dirty"] else git["sha"]
    digest = branches_digest(origin)
    if digest:
        found["architecture"] = digest
    if origin.statistics.startswith("random"):
        found["statistics"] = origin.statistics
    classes: tuple[str, ...] = origin.classes
    data = dataset_facts(origin.dataset)
    if data is not None:
        classes = classes or data.classes
        found.update(dataset=data.name, mean=list(data.mean), std=list(data.std))
    if classes:
        found["classes"] = list(classes)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items() if value}
    return {f"irepdeploy.{key}": text for key, text in texts.items()}
