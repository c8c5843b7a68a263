"""Are two outputs the same? The one definition that every hop uses.

The error of an output tensor is ``max|a - b| / max|a|``, a being the reference. A verdict needs finite values that are
not all zero; the agreement of the predicted classes counts only where it can say something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.errors import InputError
from irepdeploy.exact_arithmetic import exact_arithmetic
from irepdeploy.files import json_safe

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TOLERANCES", "Comparison", "OutputComparison", "Tolerance", "compare", "compare_outputs", "relative_error"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tolerance:
    """What two outputs may differ by: the relative error at most, the cosine at least; None is not asked for."""

    max_rel_error: float
    min_cosine: float | None = None


TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(1e-10),
    "float64-block": Tolerance(1e-10),
    "float32-block": Tolerance(1e-5),
    "float32": Tolerance(1e-4),
    "float16": Tolerance(1e-2, 0.999),
    "float16-block": Tolerance(1e-2, 0.999),
    "bfloat16": Tolerance(5e-2, 0.99),
    # The size of an int8 error is the accuracy budget's matter.
    "int8": Tolerance(float("inf"), 0.99),
    "bfloat16-block": Tolerance(5e-2, 0.99),
}


@dataclass(frozen=True)
class OutputComparison:
    """One output tensor of two models.

    Args:
        rel_error: max|a - b| / max|a|.
        cosine: of the two tensors as vectors.
        top1_agreement: share of rows with the same largest entry, or None where that is not informative.
        top1_note: why it is not, or "".
        problem: what makes a comparison impossible (NaN, all zero, shapes), or "".
    """

    name: str
    rel_error: float
    cosine: float
    top1_agreement: float | None = None
    top1_note: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """The verdict on two models over the same inputs.

    Args:
        samples: how many inputs were compared.
        layers: error by layer, in the network's order, where both models have the layer.
    """

    tolerance: Tolerance
    outputs: tuple[OutputComparison, ...]
    samples: int
    layers: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every output is within the tolerance and nothing is wrong with it."""
        return bool(self.outputs) and all(self._passes(output) for output in self.outputs)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of any output; NaN or infinity where a comparison was impossible."""
        errors = [output.rel_error for output in self.outputs]
        return max(errors, key=lambda error: float("inf") if error != error else error) if errors else float("nan")

    @property
    def worst_layer(self) -> str | None:
        """The layer with the largest error, or None where layers were not compared."""
        if not self.layers:
            return None
        return max(self.layers, key=lambda name: _sortable(self.layers[name]))

    @property
    def first_bad_layer(self) -> str | None:
        """The first layer beyond the tolerance: where a difference begins."""
        limit = self.tolerance.max_rel_error
        return next((name for name, error in self.layers.items() if not error <= limit), None)

    @property
    def reason(self) -> str:
        """One line: why the verdict is what it is."""
        for output in self.outputs:
            if output.problem:
                return f"output {output.name!r}: {output.problem}"
        failed = [output for output in self.outputs if not self._passes(output)]
        if failed:
            worst = max(failed, key=lambda output: _sortable(output.rel_error))
            text = f"output {worst.name!r} differs by {worst.rel_error:.2e} of its largest value"
            text += f", {self.tolerance.max_rel_error:.0e} is allowed"
            first = self.first_bad_layer
            return text if first is None else f"{text}; the first layer that differs is {first}"
        return f"largest relative error {self.max_rel_error:.2e}, {self.tolerance.max_rel_error:.0e} is allowed"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object; a number that is not finite becomes its name as text."""
        plain = {
            "ok": self.ok,
            "samples": self.samples,
            "max_rel_error": self.max_rel_error,
            "tolerance": asdict(self.tolerance),
            "worst_layer": self.worst_layer,
            "first_bad_layer": self.first_bad_layer,
            "reason": self.reason,
            "outputs": [asdict(output) for output in self.outputs],
        }
        return {key: json_safe(value) for key, value in plain.items()}

    def _passes(self, output: OutputComparison) -> bool:
        limit = self.tolerance
        return (
            not output.problem
            and output.rel_error <= limit.max_rel_error
            and (limit.min_cosine is None or output.cosine >= limit.min_cosine)
        )


def relative_error(a: Array, b: Array) -> float:
    """max|a - b| / max|a|; 0 for two tensors that are all zero, infinity where only `a` is, NaN where one holds NaN."""
    if a.size == 0:
        return 0.0
    difference = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    scale = float(np.max(np.abs(a.astype(np.float64))))
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale


def compare_outputs(
    a: Mapping[str, Array],
    b: Mapping[str, Array],
    tolerance: Tolerance = TOLERANCES["float32"],
    *,
    layers: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare the outputs of two models, each (N, ...) over the same N inputs, by name and else by position.

    Raises:
        InputError: the models have different numbers of outputs.
    """
    if len(a) != len(b):
        raise InputError(f"the models have {len(a)} and {len(b)} outputs: they cannot be the same network")
    names = list(a)
    other = names if set(names) == set(b) else list(b)
    outputs = tuple(_compare_one(name, a[name], b[twin], tolerance) for name, twin in zip(names, other, strict=True))
    samples = max((len(array) for array in a.values() if array.ndim), default=0)
    return Comparison(tolerance, outputs, samples, dict(layers or {}))


def compare(
    a: nn.Module,
    b: nn.Module,
    inputs: torch.Tensor | Sequence[torch.Tensor],
    tolerance: Tolerance = TOLERANCES["float32"],
) -> Comparison:
    """Run two networks on the same inputs and compare outputs, and every layer that both have under one name.

    Args:
        a: the reference, in eval mode.
        b: the other one, in eval mode.
        inputs: one tensor (N, C, H, W), or one for each input of the networks.

    Raises:
        InputError: a network is in train mode, or the two do not take these inputs.
    """
    import torch

    tensors = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    shared = _shared_layers(a, b)
    with exact_arithmetic():
        outputs_a, layers_a = _run(a, tensors, shared)
        outputs_b, layers_b = _run(b, tensors, shared)
    errors = {
        name: relative_error(layers_a[name], layers_b[name])
        for name in shared
        if name in layers_a and name in layers_b and layers_a[name].shape == layers_b[name].shape
    }
    return compare_outputs(outputs_a, outputs_b, tolerance, layers=errors)


def _compare_one(name: str, a: Array, b: Array, tolerance: Tolerance) -> OutputComparison:
    nan = float("nan")
    if a.shape != b.shape:
        return OutputComparison(name, nan, nan, problem=f"shapes differ: {a.shape} and {b.shape}")
    for which, array in (("the reference", a), ("the other model", b)):
        if not np.isfinite(array).all():
            return OutputComparison(name, nan, nan, problem=f"{which} gives NaN or infinity")
        if not array.any():
            problem = f"{which} gives nothing but zeros, which proves nothing"
            return OutputComparison(name, relative_error(a, b), 0.0, problem=problem)
    agreement, note = _top1(a, b, tolerance)
    return OutputComparison(name, relative_error(a, b), _cosine(a, b), agreement, note)


def _top1(a: Array, b: Array, tolerance: Tolerance) -> tuple[float | None, str]:
    if a.ndim != 2 or a.shape[1] < 2:
        return None, "not class scores"
    top = np.argmax(a, axis=1)
    classes = len(np.unique(top))
    if classes < 5:
        return None, f"not informative: {classes} of {a.shape[1]} classes predicted"
    ordered = np.sort(a.astype(np.float64), axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    clear = margin > tolerance.max_rel_error * float(np.max(np.abs(a)))
    if not clear.any():
        return None, "not informative: no top-2 margin above the tolerance"
    return float(np.mean(top[clear] == np.argmax(b, axis=1)[clear])), ""


def _cosine(a: Array, b: Array) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _shared_layers(a: nn.Module, b: nn.Module) -> list[str]:
    from irepdeploy.reparam.block import RepBlock

    def layers(model: nn.Module) -> dict[str, nn.Module]:
        blocks = [name for name, module in model.named_modules() if isinstance(module, RepBlock)]
        inside = tuple(f"{name}." for name in blocks)
        return {
            name: module
            for name, module in model.named_modules()
            if name in blocks or (_has_weights(module) and not name.startswith(inside))
        }

    in_b = layers(b)
    # Where a batch normalisation was folded away, what the convolution gives is another thing.
    return [name for name, module in layers(a).items() if name and name in in_b and _same_meaning(module, in_b[name])]


def _has_weights(module: nn.Module) -> bool:
    # What has none (ReLU, pools) can only pass on an error, and would hide the layer that made it.
    return next(module.parameters(recurse=False), None) is not None


def _same_meaning(a: nn.Module, b: nn.Module) -> bool:
    from torch import nn

    from irepdeploy.reparam.block import RepBlock

    if type(a) is type(b):
        return True
    return any(isinstance(m, RepBlock) for m in (a, b)) and all(isinstance(m, RepBlock | nn.Conv2d) for m in (a, b))


def _run(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], layers: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    import torch

    if model.training:
        raise InputError("the network is in train mode", where=type(model).__name__, hint="call model.eval() first")
    parameter = next(model.parameters(), None)
    if parameter is not None:
        # Two forms of one network may differ in dtype or device; the numbers that they are given are the same.
        dtype = parameter.dtype
        inputs = tuple(x.to(parameter.device, dtype if x.is_floating_point() else x.dtype) for x in inputs)
    seen: dict[str, Array] = {}
    modules = dict(model.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen[name] = _array(output)

        return hook

    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    try:
        with torch.inference_mode():
            result = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return _named(result), seen


def _named(result: Any, name: str = "output") -> dict[str, Array]:
    """Each tensor of what a network returned, by its place: ``output1``, ``scores``, ``scores.0``."""
    if isinstance(result, Mapping):
        prefix = "" if name == "output" else f"{name}."
        parts = {f"{prefix}{key}": value for key, value in result.items()}
    elif isinstance(result, list | tuple):
        dot = "" if name == "output" else "."
        parts = {f"{name}{dot}{index}": value for index, value in enumerate(result)}
    else:
        return {name: _array(result)}
    return {place: array for part, value in parts.items() for place, array in _named(value, part).items()}


def _array(tensor: torch.Tensor) -> Array:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            f"the network gives a {type(tensor).__name__} where a tensor can be compared",
            hint="compare networks whose outputs are tensors, or lists, tuples or dicts of them",
        )
    wide = tensor.detach().cpu()
    if wide.is_complex():
        wide = torch.view_as_real(wide)
    return (wide.float() if wide.dtype.is_floating_point and wide.itemsize < 4 else wide).numpy()


def _sortable(error: float) -> float:
    return float("inf") if error != error else error
