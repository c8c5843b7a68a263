"""Open the network to export, and describe it in its ONNX file."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import irepdeploy
from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.system import UNKNOWN, commit
from irepdeploy.data import dataset_facts
from irepdeploy.detect.decoding import PROPOSAL_ROUNDS
from irepdeploy.detect.detector import Detector
from irepdeploy.errors import InputError, ModelError, NotFusable
from irepdeploy.network.source import Source, branches_digest, open_source
from irepdeploy.reparam.fusable import check_fusable
from irepdeploy.reparam.origin import Origin, origin_of, set_origin, with_inputs
from irepdeploy.runtime.given_inputs import Given, forward_names, ordered_specs
from irepdeploy.runtime.torch_runner import first_line, flattened
from irepdeploy.verify.declared import Declared, asked_by_name, with_asked
from irepdeploy.verify.inputs import specs_of
from irepdeploy.verify.network_limits import network_limits
from irepdeploy.verify.signature import Signature, settled, trial

from .request.export_request import ExportRequest
from .request.settings import Settings
from .writer.onnx_from_torch import named_outputs

__all__ = ["as_static", "asked_batch", "metadata_of", "open_network", "precisions_in", "with_signature"]


def open_network(request: ExportRequest) -> tuple[Source, nn.Module | None]:
    """Open a network with float32 weights and an Origin that names its inputs.

    Returns:
        The source, and the network as given if its weights are not float32, else None.

    Raises:
        ModelError: The weights are complex numbers.
    """
    source, settings = request.source, request.settings
    if isinstance(source, nn.Module) and any(module.training for module in source.modules()):
        raise NotFusable("the network is in train mode", where=type(source).__name__, hint="call model.eval() first")
    opened = open_source(source, request.model_factory, request.seed)
    given = None
    if precisions_in(opened.model) - {"float32"}:
        given = opened.model
        opened = dataclasses.replace(opened, model=_in_float32(given, opened.label))
    check_fusable(opened.model)
    asked = _asked(settings, opened.label)
    specs = with_asked(opened.origin.specs, asked) if asked.inputs else _known_inputs(opened, request.inputs)
    return _with_inputs(opened, specs), given


def precisions_in(model: nn.Module) -> set[str]:
    """Return the types of all weights that are not integers."""
    tensors = (*model.parameters(), *model.buffers())
    kinds = {tensor.dtype for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()}
    return {str(kind).removeprefix("torch.") for kind in kinds}


def _in_float32(model: nn.Module, label: str) -> nn.Module:
    """Return a copy with float32 weights and inputs."""
    if any(kind.startswith("complex") for kind in precisions_in(model)):
        raise ModelError("ONNX has no complex convolutions", where=label, hint="export a network with real weights")
    origin = origin_of(model)
    found = set_origin(copy.deepcopy(model).float().eval(), origin)
    inputs = tuple(spec._replace(dtype="float32") if "float" in spec.dtype else spec for spec in origin.inputs)
    return set_origin(found, inputs=inputs)


def asked_batch(settings: Settings, specs: Sequence[TensorSpec]) -> int:
    """Return the batch size given by the input shapes, else 1; in `specs`, the resulting inputs, it is None."""
    by_name = asked_by_name(settings.inputs, [spec.name for spec in specs])
    sizes = [
        by_name[spec.name].shape[spec.shape.index(None)]
        for spec in specs
        if spec.name in by_name and None in spec.shape
    ]
    return next((size for size in sizes if size is not None), 1)


def _asked(settings: Settings, label: str) -> Declared:
    specs = settings.inputs
    found = Declared.of_specs(specs, label)
    if settings.dynamic_batch is not None:
        # The free size is the batch, wherever it is.
        named = {name: tuple("batch" if size is None else size for size in own) for name, own in found.inputs.items()}
        found = dataclasses.replace(found, inputs=named)
    axes = found.axes
    for spec in specs:
        if any(size is None and place != axes[spec.name] for place, size in enumerate(spec.shape)):
            raise InputError(f"expected every size but that of the batch, got {spec}", where="--input-shape")
    return found


def as_static(source: Source) -> Source:
    """Return the source of a detector with a fixed number of rounds of suppression, which a graph needs."""
    if not isinstance(source.model, Detector):
        return source
    model = _copy(source.model)
    model.rounds = PROPOSAL_ROUNDS  # type: ignore[assignment]  # an attribute of detectors
    return dataclasses.replace(source, model=model)


def with_signature(source: Source, settings: Settings) -> tuple[Source, Signature]:
    """Return the source with an Origin that names its outputs, and its signature.

    A foreign network is run with batches of 1 and 2 to find the batch dimension of its outputs.
    """
    origin = source.origin
    signature = Signature.of(origin.specs)
    if settings.output_names is None and not settings.inputs and origin.net is not None:
        return source, signature
    if signature.has_whole_numbers:
        signature = signature.with_limits(network_limits(source.model, signature))

    def run(feeds: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        try:
            with torch.inference_mode():
                returned = source.model(*(torch.from_numpy(np.ascontiguousarray(array)) for array in feeds.values()))
        except Exception as error:  # a foreign forward may raise anything
            shapes = ", ".join(map(str, origin.specs))
            raise ModelError(f"forward does not accept {shapes}: {first_line(error)}", where=source.label) from error
        known = settings.output_names or (origin.output_names if isinstance(returned, torch.Tensor) else None)
        names = named_outputs(returned, torch.Tensor, known, source.label)
        return dict(zip(names, flattened(returned), strict=True))

    alone = run(trial(signature, 1))
    signature = settled(signature, alone, run, alone)
    if tuple(alone) != origin.output_names:
        model = set_origin(_copy(source.model), output_names=tuple(alone))
        source = dataclasses.replace(source, model=model)
    return source, signature


def metadata_of(origin: Origin) -> dict[str, str]:
    """Return the metadata of an ONNX file, which are the same for every export of a network by the same version."""
    found: dict[str, Any] = {"version": irepdeploy.__version__, "net": origin.net or origin.factory}
    git = commit()
    if git["sha"] != UNKNOWN:
        # Marked as in `git describe`, since a modified tree differs from the commit.
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
        # Only the last part of a local path, which would reveal more about its author than about the network.
        name = data.name if not _is_path(data.name) else f"hf:{Path(data.name).name}"
        found.update(dataset=name, mean=list(data.mean), std=list(data.std))
    if classes:
        found["classes"] = list(classes)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items() if value}
    return {f"irepdeploy.{key}": text for key, text in texts.items()}


def _is_path(dataset: str) -> bool:
    text = dataset.removeprefix("hf:")
    return text != dataset and (Path(text).expanduser().is_absolute() or text.startswith("."))


def _known_inputs(source: Source, given: Given | None) -> Sequence[TensorSpec]:
    """Return the inputs that the network itself declares, else those that match the given inputs."""
    origin = source.origin
    if origin.specs:
        return origin.specs
    if given is None:
        takes = inspect.signature(source.model.forward).parameters.values()
        names = [each.name for each in takes if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
        hint = "give --input-shape 1xCxHxW or --inputs FILE.npy, or save(net, path, input_shape=(C, H, W))"
        if len(names) > 1:
            options = " ".join(f"--input-shape {name}:1x..." for name in names)
            hint = f"give {options}, with :int64 behind whole numbers, or --inputs FILE.npz"
        raise InputError("the network does not say what inputs it takes", where=source.label, hint=hint)
    return specs_of(given, origin.input_name, forward_names(source.model))


def _with_inputs(source: Source, specs: Sequence[TensorSpec]) -> Source:
    """Return the source with an Origin that declares these inputs, in the order of ``forward``."""
    return dataclasses.replace(source, model=with_inputs(_copy(source.model), ordered_specs(source.model, specs)))


def _copy(model: nn.Module) -> nn.Module:
    """Return a shallow copy, so that a network in memory keeps its own Origin."""
    # The copy of a GraphModule loses its mode and its Origin.
    return set_origin(copy.copy(model).eval(), origin_of(model))
