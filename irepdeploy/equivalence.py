"""Do two models give the same outputs? Each is a checkpoint, an ONNX model or a network in memory, in any pairing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.comparator import TOLERANCES, Comparison, Tolerance, compare, compare_outputs
from irepdeploy.errors import InputError, ModelError
from irepdeploy.inputs import InputGroup, gather_inputs, read_inputs
from irepdeploy.runtime.ort_runner import OrtRunner
from irepdeploy.runtime.runner import Runner, TensorSpec, shape_text

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Verification",
    "infer_all",
    "layer_errors",
    "network_runner",
    "onnx_runner",
    "tolerance_of",
    "verify_models",
]

Array = np.ndarray[Any, Any]

_CHUNK = 8
_LARGE = 64


@dataclass(frozen=True)
class Verification:
    """The verdict on two models, and what they were compared on."""

    a: str
    b: str
    inputs: tuple[InputGroup, ...]
    comparison: Comparison

    @property
    def ok(self) -> bool:
        """Whether the models give the same outputs within the tolerance."""
        return self.comparison.ok

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        inputs = [group.to_dict() for group in self.inputs]
        return {"a": self.a, "b": self.b, "inputs": inputs, "comparison": self.comparison.to_dict()}


def verify_models(
    a: str | os.PathLike[str] | nn.Module,
    b: str | os.PathLike[str] | nn.Module,
    inputs: str | os.PathLike[str] | Array | torch.Tensor | None = None,
    *,
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
    tolerance: str | Tolerance = "float32",
) -> Verification:
    """Run two models on the same inputs and compare their outputs; `a` is the reference.

    Args:
        a: a checkpoint, an ``.onnx`` file, or a network in eval mode.
        b: another one.
        inputs: what `gather_inputs` takes in the place of real inputs; 8 seeded random ones are always compared too.
        model_factory: builds the class of foreign checkpoints.
        tolerance: a name in `TOLERANCES`, or a Tolerance.

    Raises:
        InputError: a file is missing or damaged, the models do not take the same inputs, or the inputs do not fit.
    """
    limit = tolerance_of(tolerance)
    with contextlib.ExitStack() as stack:
        sides = [_open(model, model_factory, stack) for model in (a, b)]
        first, second = (side.spec for side in sides)
        shape = _common_shape(first, second, inputs)
        datasets = [side.dataset for side in sides if side.dataset is not None]
        groups = gather_inputs(shape, given=_as_array(inputs), dataset=datasets[0] if datasets else None, seed=seed)
        array = np.concatenate([group.array for group in groups])
        outputs = [infer_all(side.runner, array) for side in sides]
    layers = {}
    if sides[0].network is not None and sides[1].network is not None:
        layers = layer_errors(sides[0].network, sides[1].network, groups)
    comparison = compare_outputs(outputs[0], outputs[1], limit, layers=layers)
    return Verification(sides[0].label, sides[1].label, tuple(groups), comparison)


def tolerance_of(tolerance: str | Tolerance) -> Tolerance:
    """The Tolerance of this name.

    Raises:
        InputError: there is none.
    """
    if isinstance(tolerance, Tolerance):
        return tolerance
    if tolerance not in TOLERANCES:
        raise InputError(f"no tolerance {tolerance!r}", hint=f"one of {', '.join(TOLERANCES)}")
    return TOLERANCES[tolerance]


def network_runner(model: nn.Module, shape: Sequence[int | None] | None = None) -> Runner:
    """A runner of `model` for any batch, named and shaped as its Origin says.

    Args:
        shape: (C, H, W), where the Origin does not know it; None in it is any size.

    Raises:
        ModelError: weights of a type that numpy does not have.
    """
    from irepdeploy.origin import origin_of
    from irepdeploy.runtime.torch_runner import TorchRunner

    origin = origin_of(model)
    known: tuple[int | None, ...] = origin.input_shape or tuple(shape or (None, None, None))
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()} or {"float32"}
    if len(kinds) > 1 or not kinds <= {"float16", "float32", "float64"}:
        raise ModelError(
            f"weights of type {' and '.join(sorted(kinds))} cannot be fed from numpy", where=type(model).__name__
        )
    return TorchRunner(model, [TensorSpec(origin.input_name, (None, *known), kinds.pop())], origin.output_names)


def onnx_runner(model: str | os.PathLike[str] | bytes) -> OrtRunner:
    """A runner of an ONNX model on all cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return OrtRunner(model, threads=cores)


def infer_all(runner: Runner, array: Array) -> dict[str, Array]:
    """Run an active runner on (N, ...) float32 inputs, in batches as it takes them.

    Raises:
        ModelError: an output does not have the batch as its first dimension.
    """
    spec = runner.inputs[0]
    size = spec.shape[0] or _CHUNK
    parts: dict[str, list[Array]] = {name: [] for name in runner.outputs}
    for start in range(0, len(array), size):
        part = array[start : start + size]
        count = len(part)
        if spec.shape[0] is not None and count < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
        for name, output in runner.infer({spec.name: part.astype(spec.dtype, copy=False)}).items():
            if output.ndim == 0 or len(output) != len(part):
                raise ModelError(f"shape {output.shape} of a batch of {len(part)}", where=f"output {name!r}")
            parts[name].append(output[:count])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def layer_errors(a: nn.Module, b: nn.Module, groups: Sequence[InputGroup]) -> dict[str, float]:
    """Relative error of every layer that two networks of one dtype share, on a few inputs: all layers are kept."""
    import torch

    places = [next(((p.device, p.dtype) for p in model.parameters()), None) for model in (a, b)]
    if places[0] is None or places[0] != places[1]:
        return {}
    count = 1 if max(groups[0].array.shape[2:], default=0) > _LARGE else 4
    array = np.concatenate([group.array[:count] for group in groups])
    return compare(a, b, torch.from_numpy(array).to(*places[0])).layers


@dataclass(frozen=True)
class _Side:
    label: str
    runner: Runner
    dataset: str | None
    network: nn.Module | None = None

    @property
    def spec(self) -> TensorSpec:
        inputs = self.runner.inputs
        if len(inputs) != 1:
            names = ", ".join(spec.name for spec in inputs)
            raise InputError(
                f"takes {len(inputs)} inputs ({names}); only models of one input can be compared", where=self.label
            )
        if not inputs[0].dtype.startswith("float"):
            raise InputError(f"takes {inputs[0].dtype}; only models that take floats can be compared", where=self.label)
        return inputs[0]


def _open(
    model: str | os.PathLike[str] | nn.Module,
    factory: Callable[[], nn.Module] | None,
    stack: contextlib.ExitStack,
) -> _Side:
    if isinstance(model, str | os.PathLike):
        if Path(model).suffix.lower() == ".onnx":
            runner = stack.enter_context(onnx_runner(model))
            return _Side(os.fspath(model), runner, _known_dataset(runner.metadata))
        from irepdeploy.checkpoint import load

        label, network = os.fspath(model), load(model, model=factory)
    else:
        label, network = type(model).__name__, model
    from irepdeploy.origin import origin_of

    return _Side(label, stack.enter_context(network_runner(network)), origin_of(network).dataset, network)


def _known_dataset(metadata: Mapping[str, str]) -> str | None:
    from irepdeploy.data import DATASETS

    # Metadata of a file is only a hint: a name that is none here means photographs.
    name = metadata.get("irepdeploy.dataset")
    return name if name in DATASETS else None


def _common_shape(
    a: TensorSpec, b: TensorSpec, given: str | os.PathLike[str] | Array | torch.Tensor | None
) -> tuple[int, ...]:
    """(C, H, W) that both models take; what neither fixes comes from the given inputs."""
    shapes = [list(spec.shape[1:]) for spec in (a, b)]
    fits = len(shapes[0]) == len(shapes[1]) and all(
        x is None or y is None or x == y for x, y in zip(shapes[0], shapes[1], strict=True)
    )
    if not fits:
        texts = [shape_text(spec.shape) for spec in (a, b)]
        raise InputError(
            f"the models take different inputs: {texts[0]} and {texts[1]}", hint="compare forms of one network"
        )
    merged = [y if x is None else x for x, y in zip(shapes[0], shapes[1], strict=True)]
    sizes = tuple(size for size in merged if size is not None)
    if len(sizes) == len(merged):
        return sizes
    if given is None:
        raise InputError(
            f"the models do not say what size they take: {shape_text((None, *merged))}", hint="give --inputs FILE.npy"
        )
    found = read_inputs(given).array.shape[1:] if isinstance(given, str | os.PathLike) else tuple(given.shape[1:])
    if len(found) != len(merged) or any(x is not None and x != y for x, y in zip(merged, found, strict=True)):
        raise InputError(f"inputs of shape {found} where {shape_text(tuple(merged))} is due", where="inputs")
    return found


def _as_array(inputs: str | os.PathLike[str] | Array | torch.Tensor | None) -> str | os.PathLike[str] | Array | None:
    if inputs is None or isinstance(inputs, str | os.PathLike | np.ndarray):
        return inputs
    return inputs.detach().cpu().numpy()
