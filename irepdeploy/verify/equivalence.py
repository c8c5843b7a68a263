"""Check whether two models (checkpoints, ONNX models, engines or networks in memory) give the same outputs."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.board.runner import Runner, TensorSpec
from irepdeploy.errors import InputError, ModelError
from irepdeploy.parsing.json_text import JsonError, parse_json
from irepdeploy.reparam.comparator import TOLERANCES, Comparison, Tolerance, compare, compare_outputs
from irepdeploy.runtime.given_inputs import Given, forward_names, given_arrays, ordered_specs
from irepdeploy.verify.declared import Declared, asked_by_name, with_asked
from irepdeploy.verify.input_spec import input_specs
from irepdeploy.verify.inputs import InputGroup, gather_inputs, signature_for, specs_of
from irepdeploy.verify.onnx_process import TIMEOUT_S, time_limit
from irepdeploy.verify.output_names import output_names
from irepdeploy.verify.runners import infer_all, network_runner, noise_of, onnx_runner
from irepdeploy.verify.samples import Inputs, joined, mapped, named, one_batch
from irepdeploy.verify.signature import Signature, settled

if TYPE_CHECKING:
    from torch import nn

    from irepdeploy.detect.decoding import DetectionRule

__all__ = ["Verification", "layer_errors", "tolerance_of", "verify_models"]

Array = np.ndarray[Any, Any]

_LARGE = 64


@dataclass(frozen=True)
class Verification:
    """Result of comparing two models.

    Attributes:
        a: Label of the reference.
        b: Label of the other model.
        inputs: The inputs of the comparison.
        comparison: Errors and verdict.
        notes: Differences between a model and its file, such as nodes changed from training to inference form.
    """

    a: str
    b: str
    inputs: tuple[InputGroup, ...]
    comparison: Comparison
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the models give the same outputs within the tolerance."""
        return self.comparison.ok

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        inputs = [group.to_dict() for group in self.inputs]
        comparison = self.comparison.to_dict()
        return {"a": self.a, "b": self.b, "inputs": inputs, "comparison": comparison, "notes": list(self.notes)}


def verify_models(
    a: str | os.PathLike[str] | nn.Module,
    b: str | os.PathLike[str] | nn.Module,
    inputs: Any = None,
    *,
    input_shape: Any = (),
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    tolerance: str | Tolerance = "float32",
    timeout_s: float = TIMEOUT_S,
) -> Verification:
    """Run two models on the same inputs and compare their outputs.

    Args:
        a: The reference: a checkpoint, an ``.onnx`` or ``.engine`` file, the name of a network, or a network in eval
            mode.
        b: The other model, in any of the same forms.
        inputs: Inputs to use instead of the built-in real ones, as for `export_model`. Seeded random inputs are added
            unless the tolerance is that of int8.
        input_shape: Sizes of inputs that both models leave free, or that replace those stored by a checkpoint or
            network; in any form that `export_model` takes.
        model_factory: Function that builds the class of foreign checkpoints.
        seed: Seed of the random inputs.
        tolerance: A name in `TOLERANCES`, or a Tolerance.
        timeout_s: Time limit in seconds for ONNX Runtime to load and run a model.

    Raises:
        InputError: A file is missing or damaged, an engine was built for another machine, or inputs do not fit.
        MissingError: A model is an engine, and TensorRT or a GPU is missing.
        RunError: ONNX Runtime took longer than `timeout_s`, or ran out of memory.
    """
    limit, asked = tolerance_of(tolerance), input_specs(input_shape)
    with time_limit(timeout_s), contextlib.ExitStack() as stack:
        given = None if inputs is None else given_arrays(inputs)
        sides = _open_both((a, b), model_factory, seed, stack, partial(_known_specs, given, asked))
        signature = _common_signature(sides, given, asked)
        datasets = [side.dataset for side in sides if side.dataset is not None]
        groups = gather_inputs(signature, given=given, dataset=datasets[0] if datasets else None, seed=seed)
        if math.isinf(limit.max_rel_error):
            # The ranges of int8 were calibrated for real inputs.
            groups = groups[-1:]
        arrays = joined([group.array for group in groups])
        outputs = [infer_all(side.runner, arrays) for side in sides]
        noise = noise_of(sides[0].runner, arrays, outputs[0], sides[0].unoptimized)
    layers = {}
    if sides[0].network is not None and sides[1].network is not None:
        layers = layer_errors(sides[0].network, sides[1].network, groups)
    comparison = compare_outputs(outputs[0], outputs[1], limit, layers=layers, noise=noise)
    notes = tuple(f"{side.label}: {side.note}" for side in sides if side.note)
    return Verification(sides[0].label, sides[1].label, tuple(groups), comparison, notes)


def tolerance_of(tolerance: str | Tolerance) -> Tolerance:
    """Return the Tolerance of this name, or raise InputError if there is none."""
    if isinstance(tolerance, Tolerance):
        return tolerance
    if tolerance not in TOLERANCES:
        raise InputError(f"unknown tolerance {tolerance!r}", hint=f"one of {', '.join(TOLERANCES)}")
    return TOLERANCES[tolerance]


def layer_errors(a: nn.Module, b: nn.Module, groups: Sequence[InputGroup]) -> dict[str, float]:
    """Return the relative error of every layer that two networks have in common, on a few inputs.

    The result is empty if the networks differ in dtype or device.
    """
    import torch

    places = [next(((p.device, p.dtype) for p in model.parameters()), None) for model in (a, b)]
    if places[0] is None or places[0] != places[1]:
        return {}
    few = joined([_few(group.array) for group in groups])
    tensors = [torch.from_numpy(array).to(places[0][0]) for array in one_batch(few)]
    return compare(a, b, tensors).layers


def _few(inputs: Inputs) -> Any:
    arrays = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    large = any(max(array.shape[2:], default=0) > _LARGE for array in arrays)
    return mapped(inputs, lambda array: array[: 1 if large else 4])


@dataclass(frozen=True)
class _Side:
    label: str
    runner: Runner
    dataset: str | None
    network: nn.Module | None = None
    unoptimized: Runner | None = None
    note: str = ""


def _open_both(
    models: Sequence[str | os.PathLike[str] | nn.Module],
    factory: Callable[[], nn.Module] | None,
    seed: int,
    stack: contextlib.ExitStack,
    known: Callable[[nn.Module, Sequence[TensorSpec]], Sequence[TensorSpec]],
) -> list[_Side]:
    # Open files first, because they may contain facts that a network lacks.
    sides: dict[int, _Side] = {}
    for place in sorted(range(len(models)), key=lambda place: _kind(models[place]) is None):
        sides[place] = _open(models[place], factory, seed, stack, next(iter(sides.values()), None), known)
    return [sides[place] for place in range(len(models))]


def _kind(model: object) -> str | None:
    """Return ".onnx", ".engine", or None for a checkpoint or a network."""
    kind = Path(model).suffix.lower() if isinstance(model, str | os.PathLike) else ""
    return kind if kind in (".onnx", ".engine") else None


def _open(
    model: str | os.PathLike[str] | nn.Module,
    factory: Callable[[], nn.Module] | None,
    seed: int,
    stack: contextlib.ExitStack,
    other: _Side | None,
    known: Callable[[nn.Module, Sequence[TensorSpec]], Sequence[TensorSpec]],
) -> _Side:
    from irepdeploy.detect.decoding import DETECTION_NAMES, Decoded
    from irepdeploy.detect.detector import Detector
    from irepdeploy.reparam.origin import origin_of

    if isinstance(model, str | os.PathLike):
        if _kind(model) == ".onnx":
            content, note = _inference_form(model)
            runner = stack.enter_context(onnx_runner(content))
            plain = onnx_runner(content, optimized=False)
            from irepdeploy.data import known_dataset

            # The metadata of a file are only a hint; for an unknown name photographs are used.
            dataset = known_dataset(runner.metadata.get("irepdeploy.dataset"))
            return _Side(os.fspath(model), runner, dataset, unoptimized=plain, note=note)
        if _kind(model) == ".engine":
            from irepdeploy.board.trt_runner import TrtRunner

            return _Side(os.fspath(model), stack.enter_context(TrtRunner(model)), None)
        from irepdeploy.network.source import open_source

        label, network = os.fspath(model), open_source(model, factory, seed).model
    else:
        label, network = type(model).__name__, model
    origin = origin_of(network)
    specs, outputs = origin.specs, origin.output_names
    if not specs and other is not None and other.network is None:
        like = Declared.of_runner(other.runner, other.label)
        specs, outputs = tuple(like.with_free_batch), tuple(like.outputs)
    specs = tuple(known(network, specs))
    outputs = output_names(network, specs, outputs)
    rule = None if other is None else _rule_of(other.runner)
    if rule is not None and isinstance(network, Detector):
        network, outputs = Decoded(network, rule).eval(), DETECTION_NAMES
    taking = stack.enter_context(network_runner(network, specs, outputs))
    slow = network_runner(network, specs, outputs, plain=True)
    return _Side(label, taking, origin.dataset, network, unoptimized=slow)


def _rule_of(runner: Runner) -> DetectionRule | None:
    """Return the rule by which an ONNX file selects detections, or None if it is no detector or returns raw heads."""
    from irepdeploy.detect.facts import DETECTIONS_KEY, DetectorFacts

    described = getattr(runner, "metadata", {}).get(DETECTIONS_KEY)
    if described is None:
        return None
    try:
        rule = DetectorFacts.from_dict(parse_json(described.encode())).rule
    except (InputError, JsonError):
        return None
    return None if rule.mode == "raw" else rule


def _known_specs(
    given: Given | None, asked: Sequence[TensorSpec], network: nn.Module, stored: Sequence[TensorSpec]
) -> Sequence[TensorSpec]:
    """Return the inputs of a network with the requested sizes, else the stored sizes, else those of given inputs."""
    names = [spec.name for spec in stored]
    # Names that the network lacks belong to the other model.
    if asked and (len(asked) == len(names) or set(asked_by_name(asked, names)) <= set(names) or not names):
        found: Sequence[TensorSpec] = with_asked(stored, Declared.of_specs(asked))
    else:
        found = stored or (() if given is None else specs_of(given, places=forward_names(network)))
    return found if stored else ordered_specs(network, found)


def _inference_form(path: str | os.PathLike[str]) -> tuple[str | os.PathLike[str] | bytes, str]:
    """Return the path of an ONNX file and "", or the bytes of its inference form and what was changed."""
    from irepdeploy.onnx_graph.model_file import model_content, open_model
    from irepdeploy.onnx_graph.proto import inlined
    from irepdeploy.onnx_graph.training_mode import made_inference, training_nodes

    try:
        if not training_nodes(inlined(open_model(path, weights=False, ordered=False))):
            return path, ""
    except ModelError:
        # ONNX Runtime either reports the problem better, or can run the file anyway.
        return path, ""
    model = inlined(open_model(path))
    note = made_inference(model, os.fspath(path))
    return model_content(model), note


def _common_signature(sides: Sequence[_Side], given: Given | None, asked: Sequence[TensorSpec]) -> Signature:
    """Return the common inputs, named as in the first model, and the axis of the batch in inputs and outputs."""
    models = [Declared.of_runner(side.runner, side.label) for side in sides]
    found = signature_for(models, asked, given)
    found = found.with_limits(_limits(sides, found))
    names, axes = list(models[0].outputs), found.input_axes
    for side, model in zip(sides, models, strict=True):
        if len(model.outputs) == len(names) and model.named_like(models[0]).batch(axes) is None:
            return settled(found, names, partial(_run, side.runner, names))
    return found


def _limits(sides: Sequence[_Side], signature: Signature) -> dict[str, tuple[int, int]]:
    """Return the limits of integer inputs that any of the models reveals, under the names of the first model."""
    names = [spec.name for spec in signature.inputs]
    found: dict[str, tuple[int, int]] = {}
    for side in sides if signature.has_whole_numbers else ():
        if side.network is not None:
            from irepdeploy.verify.network_limits import network_limits

            found = {**network_limits(side.network, signature), **found}
        elif _kind(side.label) == ".onnx":
            from irepdeploy.onnx_graph.input_limits import input_limits
            from irepdeploy.onnx_graph.model_file import open_model

            shown = input_limits(open_model(side.label, weights=False))
            own = [spec.name for spec in side.runner.inputs]
            same = names if set(own) == set(names) else own
            found = {**{name: shown[key] for name, key in zip(names, same, strict=True) if key in shown}, **found}
    return found


def _run(runner: Runner, names: Sequence[str], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model once; the names of inputs and outputs may be those of another model."""
    arrays = named(feeds, runner.inputs)
    outputs = runner.infer({spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in runner.inputs})
    return outputs if set(names) == set(outputs) else dict(zip(names, outputs.values(), strict=True))
