"""Open the network to export, and describe it in its ONNX file."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import irepdeploy
from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.system import UNKNOWN, commit
from irepdeploy.data import dataset_facts
from irepdeploy.errors import InputError, ModelError, NotFusable
from irepdeploy.network.source import Source, branches_digest, open_source
from irepdeploy.reparam.fusable import check_fusable
from irepdeploy.reparam.origin import Origin, origin_of, set_origin, with_inputs
from irepdeploy.runtime.torch_runner import first_line
from irepdeploy.verify.input_files import read_inputs
from irepdeploy.verify.inputs import Given, Inputs, mapped

from .request.export_request import ExportRequest
from .writer.onnx_from_torch import named_outputs

__all__ = ["metadata_of", "open_network", "with_output_names"]


def open_network(request: ExportRequest) -> Source:
    """Open a float32 network whose Origin names its inputs."""
    source, settings = request.source, request.settings
    if isinstance(source, nn.Module) and any(module.training for module in source.modules()):
        raise NotFusable("the network is in train mode", where=type(source).__name__, hint="call model.eval() first")
    opened = open_source(source, request.model_factory, request.seed)
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in opened.model.parameters()}
    if kinds - {"float32"}:
        raise ModelError(
            f"expected float32 weights, got {' and '.join(sorted(kinds))}",
            where=opened.label,
            hint="irepdeploy.save(net.float(), path)",
        )
    check_fusable(opened.model)
    return _with_inputs(opened, settings.inputs or _known_inputs(opened, request.inputs))


def with_output_names(source: Source, names: Sequence[str] | None, example: Inputs) -> Source:
    """Return the source with an Origin that names its outputs: `names` in order, or else those that it knows."""
    tensors = mapped(example, lambda array: torch.from_numpy(array[:1]))
    given = list(tensors.values()) if isinstance(tensors, dict) else [tensors]
    try:
        with torch.inference_mode():
            returned = source.model(*given)
    except Exception as error:  # whatever a foreign forward raises
        shapes = ", ".join(map(str, source.origin.specs))
        raise ModelError(f"forward does not accept {shapes}: {first_line(error)}", where=source.label) from error
    known = names or (source.origin.output_names if isinstance(returned, torch.Tensor) else None)
    found = tuple(named_outputs(returned, torch.Tensor, known, source.label))
    if found == source.origin.output_names:
        return source
    return dataclasses.replace(source, model=set_origin(_copy(source.model), output_names=found))


def metadata_of(origin: Origin) -> dict[str, str]:
    """Return the metadata of an ONNX file; the same irepdeploy writes the same for every export of one network."""
    found: dict[str, Any] = {"version": irepdeploy.__version__, "net": origin.net or origin.factory}
    git = commit()
    if git["sha"] != UNKNOWN:
        # As in `git describe`: a modified tree is not the commit.
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


def _known_inputs(source: Source, given: Given | None) -> Sequence[TensorSpec]:
    """Return the inputs that the network itself declares, else those that match the given inputs."""
    origin = source.origin
    if origin.specs:
        return origin.specs
    if given is None:
        raise InputError(
            "the network does not say what inputs it takes",
            where=source.label,
            hint="give --input-shape 1xCxHxW or --inputs FILE.npy, or save(net, path, input_shape=(C, H, W))",
        )
    found: Any = read_inputs(given).array if isinstance(given, str | os.PathLike) else given
    if not isinstance(found, Mapping):
        found = {origin.input_name: found if found.ndim != 3 else found[None]}
    return [TensorSpec(name, (None, *array.shape[1:]), array.dtype.name) for name, array in found.items()]


def _with_inputs(source: Source, specs: Sequence[TensorSpec]) -> Source:
    """Return the source with an Origin that declares these inputs, in the order of ``forward``."""
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InputError(
            f"several inputs of the same name: {', '.join(names)}",
            where="--input-shape",
            hint="NAME:1x3x224x224 for each",
        )
    if any(len(spec.shape) == 0 for spec in specs):
        raise InputError("expected inputs with a batch dimension, got a scalar", where=source.label)
    parameters = list(inspect.signature(source.model.forward).parameters)
    if set(names) <= set(parameters):
        specs = sorted(specs, key=lambda spec: parameters.index(spec.name))
    return dataclasses.replace(source, model=with_inputs(_copy(source.model), specs))


def _copy(model: nn.Module) -> nn.Module:
    """Return a shallow copy, so that a network in memory keeps its own Origin."""
    # The copy of a GraphModule loses its mode and its Origin.
    return set_origin(copy.copy(model).eval(), origin_of(model))
