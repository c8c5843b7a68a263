"""Compare the outputs of two models: the one definition that every hop uses, on the desk and on the board.

The error of an output tensor is ``max|a - b| / max|a|``, where a is the reference. A verdict needs finite values that
are not all zero; top-1 agreement is reported only where it is informative.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from irepdeploy.board.json_values import json_safe
from irepdeploy.errors import InputError

__all__ = ["TOLERANCES", "Comparison", "OutputComparison", "Tolerance", "compare_outputs", "relative_error"]


@dataclass(frozen=True)
class Tolerance:
    """The largest relative error and the smallest cosine that pass; a `min_cosine` of None is not checked."""

    max_rel_error: float
    min_cosine: Optional[float] = None


TOLERANCES: Dict[str, Tolerance] = {
    "float64": Tolerance(1e-10),
    "float64-block": Tolerance(1e-10),
    "float32-block": Tolerance(1e-5),
    "float32": Tolerance(1e-4),
    "float16": Tolerance(1e-2, 0.999),
    "float16-block": Tolerance(1e-2, 0.999),
    "bfloat16": Tolerance(5e-2, 0.99),
    # How large an int8 error may be is up to the accuracy budget.
    "int8": Tolerance(float("inf"), 0.99),
    "bfloat16-block": Tolerance(5e-2, 0.99),
}


@dataclass(frozen=True)
class OutputComparison:
    """The comparison of one output tensor of two models.

    Attributes:
        rel_error: max|a - b| / max|a|.
        cosine: Cosine similarity of the flattened tensors.
        top1_agreement: Share of rows with the same largest entry, or None where that is not informative.
        top1_note: Why it is not informative, or "".
        problem: Why the tensors cannot be compared (NaN, all zero, different shapes), or "".
    """

    name: str
    rel_error: float
    cosine: float
    top1_agreement: Optional[float] = None
    top1_note: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Comparison:
    """The verdict on two models over the same inputs.

    Attributes:
        samples: Number of inputs compared.
        layers: Error by layer, in the network's order, for layers that both models have.
    """

    tolerance: Tolerance
    outputs: Tuple[OutputComparison, ...]
    samples: int
    layers: Dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every output could be compared and is within the tolerance."""
        return bool(self.outputs) and all(self._passes(output) for output in self.outputs)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of any output; NaN or infinity where a comparison was impossible."""
        errors = [output.rel_error for output in self.outputs]
        return max(errors, key=_sortable) if errors else float("nan")

    @property
    def worst_layer(self) -> Optional[str]:
        """The layer with the largest error, or None if no layers were compared."""
        if not self.layers:
            return None
        return max(self.layers, key=lambda name: _sortable(self.layers[name]))

    @property
    def first_bad_layer(self) -> Optional[str]:
        """The first layer beyond the tolerance, where the difference begins."""
        limit = self.tolerance.max_rel_error
        return next((name for name, error in self.layers.items() if not error <= limit), None)

    @property
    def reason(self) -> str:
        """The reason for the verdict, as one line."""
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

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON object in which numbers that are not finite are written as text."""
        verdict = {
            "ok": self.ok,
            "samples": self.samples,
            "max_rel_error": self.max_rel_error,
            "tolerance": asdict(self.tolerance),
            "worst_layer": self.worst_layer,
            "first_bad_layer": self.first_bad_layer,
            "reason": self.reason,
            "outputs": [asdict(output) for output in self.outputs],
        }
        return json_safe(verdict)

    def _passes(self, output: OutputComparison) -> bool:
        limit = self.tolerance
        return (
            not output.problem
            and output.rel_error <= limit.max_rel_error
            and (limit.min_cosine is None or output.cosine >= limit.min_cosine)
        )


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return max|a - b| / max|a|: 0 if both tensors are all zero, infinity if only `a` is, NaN if one holds NaN."""
    if a.size == 0:
        return 0.0
    difference = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    scale = float(np.max(np.abs(a.astype(np.float64))))
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale


def compare_outputs(
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    tolerance: Tolerance = TOLERANCES["float32"],
    *,
    layers: Optional[Mapping[str, float]] = None,
) -> Comparison:
    """Compare the outputs of two models over the same inputs.

    `a` holds the outputs of the reference by name, each (N, ...), `b` those of the other model, matched by name, or by
    position if the names differ; `layers` holds errors by layer, to name the first bad one.
    """
    if len(a) != len(b):
        raise InputError(f"the models have {len(a)} and {len(b)} outputs: they cannot be the same network")
    names = list(a)
    other = names if set(names) == set(b) else list(b)
    outputs = tuple(_compare_one(name, a[name], b[twin], tolerance) for name, twin in zip(names, other))
    samples = max((len(array) for array in a.values() if array.ndim), default=0)
    return Comparison(tolerance, outputs, samples, dict(layers or {}))


def _compare_one(name: str, a: np.ndarray, b: np.ndarray, tolerance: Tolerance) -> OutputComparison:
    nan = float("nan")
    if a.shape != b.shape:
        return OutputComparison(name, nan, nan, problem=f"shapes differ: {a.shape} and {b.shape}")
    for which, array in (("the reference", a), ("the other model", b)):
        if not np.isfinite(array).all():
            return OutputComparison(name, nan, nan, problem=f"{which} returns NaN or infinity")
        if not array.any():
            problem = f"{which} returns only zeros, which proves nothing"
            return OutputComparison(name, relative_error(a, b), 0.0, problem=problem)
    agreement, note = _top1(a, b, tolerance)
    return OutputComparison(name, relative_error(a, b), _cosine(a, b), agreement, note)


def _top1(a: np.ndarray, b: np.ndarray, tolerance: Tolerance) -> Tuple[Optional[float], str]:
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


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _sortable(error: float) -> float:
    return float("inf") if error != error else error
