"""Check whether two models give the same outputs: checkpoints, ONNX models, engines or networks in memory."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.board.comparison import Noise
from irepdeploy.board.runner import Runner, TensorSpec, shape_text
from irepdeploy.errors import InputError, IrepdeployError, ModelError
from irepdeploy.reparam.comparator import TOLERANCES, Comparison, Tolerance, compare, compare_outputs
from irepdeploy.verify.inputs import (
    Given,
    InputGroup,
    Inputs,
    check_batch,
    gather_inputs,
    joined,
    mapped,
    named,
    samples_in,
)
from irepdeploy.verify.noise import noise_between, nudged
from irepdeploy.verify.onnx_process import TIMEOUT_S, OnnxProcessRunner, time_limit

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Verification", "infer_all", "layer_errors", "network_runner", "noise_of", "onnx_runner", "tolerance_of",
    "verify_models",
]  # fmt: skip

Array = np.ndarray[Any, Any]

_CHUNK = 8
_LARGE = 64


@dataclass(frozen=True)
class Verification:
    """Result of comparing two models, the inputs it was obtained on, and how a model differs from its file."""

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
    inputs: Given | torch.Tensor | None = None,
    *,
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    tolerance: str | Tolerance = "float32",
    timeout_s: float = TIMEOUT_S,
) -> Verification:
    """Run two models on the same inputs and compare their outputs; `a` is the reference.

    Args:
        a: a checkpoint, an ``.onnx`` or ``.engine`` file, the name of a network, or a network in eval mode.
        b: like `a`.
        inputs: inputs to use instead of real ones, see `gather_inputs`; 8 seeded random ones are added unless the
            tolerance is that of int8.
        model_factory: builds the class of foreign checkpoints.
        seed: of the random inputs.
        tolerance: a name in `TOLERANCES`, or a Tolerance.
        timeout_s: seconds that ONNX Runtime may take to load and run a model.

    Raises:
        InputError: a file is missing or damaged, an engine is not for this machine, or inputs do not fit.
        MissingError: a model is an engine, and TensorRT or a GPU is missing.
        RunError: ONNX Runtime took longer than `timeout_s`, or ran out of memory.
    """
    limit = tolerance_of(tolerance)
    with time_limit(timeout_s), contextlib.ExitStack() as stack:
        sides = _open_both((a, b), model_factory, seed, stack)
        specs = _common_inputs(sides[0], sides[1], inputs)
        datasets = [side.dataset for side in sides if side.dataset is not None]
        groups = gather_inputs(specs, given=_as_arrays(inputs), dataset=datasets[0] if datasets else None, seed=seed)
        if math.isinf(limit.max_rel_error):
            # The ranges of int8 are those of real inputs.
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
    """Return the Tolerance of this name."""
    if isinstance(tolerance, Tolerance):
        return tolerance
    if tolerance not in TOLERANCES:
        raise InputError(f"no tolerance {tolerance!r}", hint=f"one of {', '.join(TOLERANCES)}")
    return TOLERANCES[tolerance]


def network_runner(model: nn.Module) -> Runner:
    """Return a runner of `model` for any batch, with inputs and outputs as in its Origin, else an image of any size.

    Floating inputs have the type of the weights.
    """
    from irepdeploy.reparam.origin import origin_of
    from irepdeploy.runtime.torch_runner import TorchRunner

    origin = origin_of(model)
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()} or {"float32"}
    if len(kinds) > 1 or not kinds <= {"float16", "float32", "float64"}:
        raise ModelError(
            f"weights of type {' and '.join(sorted(kinds))} cannot be fed from numpy", where=type(model).__name__
        )
    kind = kinds.pop()
    specs = origin.specs or (TensorSpec(origin.input_name, (None, None, None, None)),)
    cast = [spec._replace(dtype=kind) if spec.dtype.startswith("float") else spec for spec in specs]
    return TorchRunner(model, cast, origin.output_names)


def onnx_runner(
    model: str | os.PathLike[str] | bytes, *, as_written: bool = False, optimized: bool = True
) -> OnnxProcessRunner:
    """Return a runner of an ONNX model on all cores available to this process, in a process with a `time_limit`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Nothing is timed here, and spinning threads would take cores from other processes of the command.
    return OnnxProcessRunner(model, threads=cores, spinning=False, as_written=as_written, optimized=optimized)


def infer_all(runner: Runner, inputs: Inputs) -> dict[str, Array]:
    """Run an active runner on inputs (N, ...), or a mapping of such arrays, in batches that it accepts."""
    arrays = named(inputs, runner.inputs)
    fixed = runner.inputs[0].shape[0]
    size = fixed or _CHUNK
    check_batch(runner.inputs, size)
    parts: dict[str, list[Array]] = {name: [] for name in runner.outputs}
    for start in range(0, samples_in(inputs), size):
        count = min(size, samples_in(inputs) - start)
        due = count if fixed is None else size
        feeds = {}
        for spec in runner.inputs:
            part = arrays[spec.name][start : start + count]
            if count < due:
                part = np.concatenate([part, np.repeat(part[-1:], due - count, axis=0)])
            feeds[spec.name] = part.astype(spec.dtype, copy=False)
        for name, output in runner.infer(feeds).items():
            if output.ndim == 0 or len(output) != due:
                raise ModelError(f"shape {output.shape} of a batch of {due}", where=f"output {name!r}")
            parts[name].append(output[:count])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def noise_of(
    runner: Runner, inputs: Inputs, outputs: Mapping[str, Array], unoptimized: Runner | None = None
) -> dict[str, Noise]:
    """Return how far the outputs of a model are from themselves when only the rounding changes, by output.

    They are compared with those on inputs of which every number is one unit in the last place larger or smaller, and
    with those of `unoptimized`, the same model as a runner that is not active yet. A form that cannot run is omitted.

    Args:
        runner: The model, active.
        inputs: Inputs as for `infer_all`.
        outputs: Outputs of the model on them.
        unoptimized: The model without graph optimizations.
    """
    found: dict[str, dict[str, Array]] = {}
    with contextlib.suppress(IrepdeployError):
        moved = nudged(inputs, runner.inputs)
        if moved is not None:
            found["nudged"] = infer_all(runner, moved)
    if unoptimized is not None:
        with contextlib.suppress(IrepdeployError), unoptimized:
            found["unoptimized"] = infer_all(unoptimized, inputs)
    return noise_between(outputs, found)


def layer_errors(a: nn.Module, b: nn.Module, groups: Sequence[InputGroup]) -> dict[str, float]:
    """Return the relative error of every layer that two networks of one dtype share, on a few inputs."""
    import torch

    places = [next(((p.device, p.dtype) for p in model.parameters()), None) for model in (a, b)]
    if places[0] is None or places[0] != places[1]:
        return {}
    few = joined([_few(group.array) for group in groups])
    tensors = [torch.from_numpy(array).to(places[0][0]) for array in _each(few)]
    return compare(a, b, tensors).layers


def _each(inputs: Inputs) -> list[Array]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def _few(inputs: Inputs) -> Any:
    large = any(max(array.shape[2:], default=0) > _LARGE for array in _each(inputs))
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
) -> list[_Side]:
    # A file may have facts that the network lacks: it is opened first.
    sides: dict[int, _Side] = {}
    for place in sorted(range(len(models)), key=lambda place: _kind(models[place]) is None):
        sides[place] = _open(models[place], factory, seed, stack, next(iter(sides.values()), None))
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
) -> _Side:
    from irepdeploy.reparam.origin import origin_of, set_origin, with_inputs

    if isinstance(model, str | os.PathLike):
        if _kind(model) == ".onnx":
            content, note = _inference_form(model)
            runner = stack.enter_context(onnx_runner(content))
            plain = onnx_runner(content, optimized=False)
            return _Side(os.fspath(model), runner, _known_dataset(runner.metadata), unoptimized=plain, note=note)
        if _kind(model) == ".engine":
            from irepdeploy.board.trt_runner import TrtRunner

            return _Side(os.fspath(model), stack.enter_context(TrtRunner(model)), None)
        from irepdeploy.network.source import open_source

        label, network = os.fspath(model), open_source(model, factory, seed).model
    else:
        label, network = type(model).__name__, model
    origin = origin_of(network)
    fed = network
    if other is not None and other.network is None and not origin.specs:
        fed = set_origin(copy.copy(network), output_names=tuple(other.runner.outputs))
        if all(None not in spec.shape[1:] for spec in other.runner.inputs):
            fed = with_inputs(fed, other.runner.inputs)
    return _Side(label, stack.enter_context(network_runner(fed)), origin.dataset, network)


def _inference_form(path: str | os.PathLike[str]) -> tuple[str | os.PathLike[str] | bytes, str]:
    """Return an ONNX file, or the bytes of its inference form and what was changed for that."""
    from irepdeploy.onnx_graph.model_file import model_content, open_model
    from irepdeploy.onnx_graph.training_mode import made_inference, training_nodes

    try:
        if not training_nodes(open_model(path, weights=False, ordered=False)):
            return path, ""
    except ModelError:
        # ONNX Runtime says better what is wrong with it, or runs it all the same.
        return path, ""
    model = open_model(path)
    note = made_inference(model, os.fspath(path))
    return model_content(model), note


def _known_dataset(metadata: Mapping[str, str]) -> str | None:
    from irepdeploy.data import DATASETS

    # Metadata of a file is only a hint: an unknown name means photographs.
    name = metadata.get("irepdeploy.dataset")
    return name if name in DATASETS else None


def _common_inputs(a: _Side, b: _Side, given: Given | torch.Tensor | None) -> list[TensorSpec]:
    """Return the common inputs, named as in `a`; sizes that are dynamic in both come from the given inputs."""
    ours, theirs = a.runner.inputs, b.runner.inputs
    if len(ours) != len(theirs):
        counts = [f"{side.label} takes {len(side.runner.inputs)}" for side in (a, b)]
        raise InputError(f"the models take different inputs: {counts[0]}, {counts[1]} inputs")
    if {spec.name for spec in ours} == {spec.name for spec in theirs}:
        by_name = {spec.name: spec for spec in theirs}
        theirs = [by_name[spec.name] for spec in ours]
    merged = [_merged(x, y) for x, y in zip(ours, theirs, strict=True)]
    if all(None not in spec.shape[1:] for spec in merged):
        return merged
    open_ones = ", ".join(shape_text(spec.shape) for spec in merged)
    if given is None:
        raise InputError(f"both models have dynamic sizes: {open_ones}", hint="give --inputs FILE.npy")
    found = _sizes_of(given)
    shapes = [found[spec.name] for spec in merged] if set(found) == {s.name for s in merged} else list(found.values())
    if len(shapes) != len(merged):
        raise InputError(f"expected {len(merged)} inputs, got {len(shapes)}", where="inputs")
    fitting = []
    for spec, sizes in zip(merged, shapes, strict=True):
        fits = len(sizes) == len(spec.shape) - 1 and all(
            due is None or due == size for due, size in zip(spec.shape[1:], sizes, strict=True)
        )
        if not fits:
            raise InputError(f"expected inputs of shape {shape_text(spec.shape[1:])}, got {sizes}", where="inputs")
        fitting.append(spec._replace(shape=(None, *sizes)))
    return fitting


def _merged(a: TensorSpec, b: TensorSpec) -> TensorSpec:
    floats = a.dtype.startswith("float") and b.dtype.startswith("float")
    fits = (
        len(a.shape) == len(b.shape)
        and (floats or a.dtype == b.dtype)
        and all(x is None or y is None or x == y for x, y in zip(a.shape[1:], b.shape[1:], strict=True))
    )
    if not fits:
        kinds = ["" if floats else f"{spec.dtype} " for spec in (a, b)]
        texts = [f"{kind}{shape_text(spec.shape)}" for kind, spec in zip(kinds, (a, b), strict=True)]
        raise InputError(
            f"the models take different inputs: {texts[0]} and {texts[1]}", hint="compare forms of one network"
        )
    sizes = [y if x is None else x for x, y in zip(a.shape[1:], b.shape[1:], strict=True)]
    # float32 is fed, whatever floats the models take.
    return TensorSpec(a.name, (None, *sizes), "float32" if floats else a.dtype)


def _sizes_of(given: Given | torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape of one input without its batch, by name."""
    from irepdeploy.verify.input_files import read_inputs

    found = read_inputs(given).array if isinstance(given, str | os.PathLike) else given
    arrays = found if isinstance(found, Mapping) else {"input": found}
    return {name: tuple(array.shape[1:]) for name, array in arrays.items()}


def _as_arrays(inputs: Given | torch.Tensor | None) -> Given | None:
    if inputs is None or isinstance(inputs, str | os.PathLike | np.ndarray | Mapping):
        return inputs
    return inputs.detach().cpu().numpy()
