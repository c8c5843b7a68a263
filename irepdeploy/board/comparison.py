"""Comparison of the outputs of two models: the single definition used by every hop, on the desk and on the board.

The error of an output tensor is ``max|a - b| / max|a|``, where ``a`` is the reference. Values that are not finite or
are all zero cannot be compared. Top-1 agreement is reported only where it is informative.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from irepdeploy.board.detections import NUM_DETS, are_detections, are_proposals, matched, matched_proposals
from irepdeploy.board.json_values import json_safe
from irepdeploy.errors import InputError

__all__ = [
    "NOISE_FACTOR",
    "TOLERANCES",
    "Comparison",
    "Noise",
    "OutputComparison",
    "Tolerance",
    "compare_outputs",
    "cosine",
    "relative_error",
]

# Two roundings of one network may deviate from the exact result in opposite directions (a factor of 2), and a few
# inputs rarely show the largest difference (another factor of 2).
NOISE_FACTOR = 4
# A larger relative error than the first says little about an output as a whole; its cosine is then checked against the
# second as well.
_TELLING_ERROR, _LEAST_COSINE = 0.1, 0.9
# Minimum slack of scores, for detections at the end of the list.
_LEAST_SLACK = 1e-4


@dataclass(frozen=True)
class Tolerance:
    """Bounds for an output to pass the comparison.

    Attributes:
        max_rel_error: Largest relative error; infinity for no bound.
        min_cosine: Smallest cosine similarity; None for no bound.
    """

    max_rel_error: float
    min_cosine: Optional[float] = None

    def __str__(self) -> str:
        if math.isfinite(self.max_rel_error) or self.min_cosine is None:
            return f"{self.max_rel_error:.0e}"
        return f"cosine {self.min_cosine:.4g}"

    def to_dict(self) -> Dict[str, Optional[float]]:
        """Return the bounds as a JSON object, with None for a bound that is not checked."""
        error = self.max_rel_error if math.isfinite(self.max_rel_error) else None
        return {"max_rel_error": error, "min_cosine": self.min_cosine}

    def relaxed(self, noise: Optional["Noise"]) -> "Tolerance":
        """Return this tolerance widened to `NOISE_FACTOR` times the noise of the reference."""
        if noise is None:
            return self
        error = max(self.max_rel_error, NOISE_FACTOR * noise.rel_error)
        # 1 - cosine grows with the square of the error.
        least = max(1 - NOISE_FACTOR**2 * (1 - noise.cosine), _LEAST_COSINE)
        if self.min_cosine is not None:
            return Tolerance(error, min(self.min_cosine, least))
        return Tolerance(error) if error <= max(self.max_rel_error, _TELLING_ERROR) else Tolerance(error, least)


@dataclass(frozen=True)
class Noise:
    """How much an output of the reference changes when only the rounding changes.

    Attributes:
        rel_error: Largest relative error of the measured variants.
        cosine: Smallest cosine similarity of the measured variants.
        unoptimized: Relative error without ONNX Runtime's graph optimizations; None if not measured.
        nudged: Relative error on inputs changed by one unit in the last place; None if not measured.
    """

    rel_error: float
    cosine: float = 1.0
    unoptimized: Optional[float] = None
    nudged: Optional[float] = None


TOLERANCES: Dict[str, Tolerance] = {
    "float64": Tolerance(1e-10),
    "float64-block": Tolerance(1e-10),
    "float32-block": Tolerance(1e-5),
    "float32": Tolerance(1e-4),
    "float16": Tolerance(1e-2, 0.999),
    "float16-block": Tolerance(1e-2, 0.999),
    "bfloat16": Tolerance(5e-2, 0.99),
    # The relative error of int8 is limited by the accuracy budget instead.
    "int8": Tolerance(float("inf"), 0.99),
    "bfloat16-block": Tolerance(5e-2, 0.99),
}


@dataclass(frozen=True)
class OutputComparison:
    """The comparison of one output tensor of two models.

    Attributes:
        name: Name of the output in the reference.
        rel_error: Relative error, max|a - b| / max|a|.
        cosine: Cosine similarity of the flattened tensors.
        top1_agreement: Share of rows with the same largest entry, or None if that is not informative.
        top1_note: Why the agreement is not informative, or "".
        noise: Noise of the reference, or None if it was not measured.
        problem: Why the tensors cannot be compared (NaN, all zero, different shapes), or "".
    """

    name: str
    rel_error: float
    cosine: float
    top1_agreement: Optional[float] = None
    top1_note: str = ""
    problem: str = ""
    noise: Optional[Noise] = None


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models over the same inputs, with its verdict.

    Attributes:
        tolerance: The requested tolerance; `allowed_for` gives that of an output, which may be wider.
        outputs: Comparison of each output.
        samples: Number of inputs compared.
        layers: Relative error by layer, in the network's order, for layers that both models have.
    """

    tolerance: Tolerance
    outputs: Tuple[OutputComparison, ...]
    samples: int
    layers: Dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every output could be compared and is within its tolerance."""
        return bool(self.outputs) and all(self._passes(output) for output in self.outputs)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of any output; NaN or infinity if an output could not be compared."""
        errors = [output.rel_error for output in self.outputs]
        return max(errors, key=_sortable) if errors else float("nan")

    @property
    def worst(self) -> Optional[OutputComparison]:
        """The output with the largest error, among the failing outputs if there are any; None without outputs."""
        among = [output for output in self.outputs if not self._passes(output)] or list(self.outputs)
        return max(among, key=lambda output: _sortable(output.rel_error)) if among else None

    @property
    def allowed(self) -> Tolerance:
        """The tolerance of the worst output."""
        return self.tolerance if self.worst is None else self.allowed_for(self.worst)

    def allowed_for(self, output: OutputComparison) -> Tolerance:
        """Return the tolerance of an output: the requested one, or `NOISE_FACTOR` times the noise if that is wider."""
        return self.tolerance.relaxed(output.noise)

    @property
    def worst_layer(self) -> Optional[str]:
        """The layer with the largest error, or None if no layers were compared."""
        if not self.layers:
            return None
        return max(self.layers, key=lambda name: _sortable(self.layers[name]))

    @property
    def first_bad_layer(self) -> Optional[str]:
        """The first layer beyond the tolerance, which is where the difference begins; None if there is none."""
        limit = self.tolerance.max_rel_error
        return next((name for name, error in self.layers.items() if not error <= limit), None)

    @property
    def reason(self) -> str:
        """One line that explains the verdict."""
        for output in self.outputs:
            if output.problem:
                return f"output {output.name!r}: {output.problem}"
        worst = self.worst
        if worst is None:
            return "there are no outputs to compare"
        if self.ok:
            return self._within(worst)
        text = f"output {worst.name!r} {' and '.join(self._exceeded(worst))}"
        first = self.first_bad_layer
        return text if first is None else f"{text}; the first layer that differs is {first}"

    def _within(self, worst: OutputComparison) -> str:
        allowed = self.allowed_for(worst)
        if not math.isfinite(allowed.max_rel_error):
            least = min(output.cosine for output in self.outputs)
            return f"smallest cosine {least:.4f}, at least {allowed.min_cosine:.4g} is needed"
        return f"largest relative error {worst.rel_error:.2e}, {_allowed_text(worst, self.tolerance)}"

    def _exceeded(self, output: OutputComparison) -> List[str]:
        """Return the bounds that an output exceeds."""
        allowed, found = self.allowed_for(output), []
        if not output.rel_error <= allowed.max_rel_error:
            found.append(
                f"differs by {output.rel_error:.2e} of its largest value, {_allowed_text(output, self.tolerance)}"
            )
        if allowed.min_cosine is not None and not output.cosine >= allowed.min_cosine:
            text = f"has a cosine of {output.cosine:.4f}, at least {allowed.min_cosine:.4g} is needed"
            if output.noise is not None and output.noise.cosine < _LEAST_COSINE:
                text += f" (the reference compared with itself: {output.noise.cosine:.4f}; it is random or chaotic)"
            found.append(text)
        return found

    def to_dict(self) -> Dict[str, Any]:
        """Return the comparison as a JSON object, with non-finite numbers written as text."""
        verdict = {
            "ok": self.ok,
            "samples": self.samples,
            "max_rel_error": self.max_rel_error,
            "tolerance": self.tolerance.to_dict(),
            "allowed": self.allowed.to_dict(),
            "noise_factor": NOISE_FACTOR,
            "worst_layer": self.worst_layer,
            "first_bad_layer": self.first_bad_layer,
            "reason": self.reason,
            "outputs": [{**asdict(output), "allowed": self.allowed_for(output).to_dict()} for output in self.outputs],
        }
        return json_safe(verdict)

    def _passes(self, output: OutputComparison) -> bool:
        return not output.problem and not self._exceeded(output)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return max|a - b| / max|a|: 0 if both tensors are all zero, infinity if only `a` is, NaN if either has a NaN."""
    if a.size == 0:
        return 0.0
    difference = float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))
    scale = float(np.max(np.abs(a.astype(np.float64))))
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine similarity of two tensors: 1 if both are all zero, 0 if only one is."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    if not (x.any() and y.any()):
        return float(x.any() == y.any())
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def compare_outputs(
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    tolerance: Tolerance = TOLERANCES["float32"],
    *,
    layers: Optional[Mapping[str, float]] = None,
    noise: Optional[Mapping[str, Noise]] = None,
) -> Comparison:
    """Compare the outputs of two models over the same inputs.

    Args:
        a: Outputs of the reference by name, each of shape (N, ...).
        b: Outputs of the other model. They are matched by name, or by position if the names differ; rows of detections
            are matched by their boxes.
        tolerance: Bounds that every output must meet. Default: that of float32.
        layers: Relative errors by layer, used to name the first bad layer.
        noise: Noise of the reference by output, which widens the tolerance of that output.

    Raises:
        InputError: The models have different numbers of outputs.
    """
    if len(a) != len(b):
        raise InputError(f"the models have different numbers of outputs: {len(a)} and {len(b)}")
    names = list(a)
    other = names if set(names) == set(b) else list(b)
    known = noise or {}
    if are_detections(a) and are_detections(b):
        outputs = _compare_detections(a, b, tolerance, known)
        return Comparison(tolerance, outputs, len(a[NUM_DETS]), dict(layers or {}))
    problem = ""
    if are_proposals(a) and are_proposals(b):
        b, problem = matched_proposals(a, b, tolerance.max_rel_error)
    outputs = tuple(
        replace(_compare_one(name, a[name], b[twin], tolerance.relaxed(known.get(name))), noise=known.get(name))
        for name, twin in zip(names, other)
    )
    if problem:
        outputs = tuple(replace(each, problem=each.problem or problem) for each in outputs)
    samples = max((len(array) for array in a.values() if array.ndim), default=0)
    return Comparison(tolerance, outputs, samples, dict(layers or {}))


def _compare_one(name: str, a: np.ndarray, b: np.ndarray, tolerance: Tolerance) -> OutputComparison:
    nan = float("nan")
    if a.shape != b.shape:
        return OutputComparison(name, nan, nan, problem=f"shapes differ: {a.shape} and {b.shape}")
    for which, array in (("the reference", a), ("the other model", b)):
        if not np.isfinite(array).all():
            return OutputComparison(name, nan, nan, problem=f"{which} returns NaN or infinity")
        # Integer outputs, such as classes, are legitimately all zero.
        if not array.any() and array.dtype.kind == "f":
            problem = f"{which} returns only zeros, so the comparison is meaningless"
            return OutputComparison(name, relative_error(a, b), 0.0, problem=problem)
    agreement, note = _top1(a, b, tolerance)
    return OutputComparison(name, relative_error(a, b), cosine(a, b), agreement, note)


def _compare_detections(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: Tolerance, noise: Mapping[str, Noise]
) -> Tuple[OutputComparison, ...]:
    """Compare detections regardless of their order; integers must be equal."""
    slack = max(tolerance.relaxed(noise.get("scores")).max_rel_error, _LEAST_SLACK)
    twin, problem = matched(a, b, slack if math.isfinite(slack) else 1.0)
    found = []
    for name, array in a.items():
        none = not array.any() and not twin[name].any()
        # Finding nothing in any input is no error: networks may be exported before they detect anything.
        one = OutputComparison(name, 0.0, 1.0) if none else _compare_one(name, array, twin[name], tolerance)
        note = "no detections" if none else "compared as sets"
        text = problem if name == "boxes" else one.problem
        found.append(replace(one, top1_agreement=None, top1_note=note, problem=text, noise=noise.get(name)))
    return tuple(found)


def _top1(a: np.ndarray, b: np.ndarray, tolerance: Tolerance) -> Tuple[Optional[float], str]:
    if a.ndim != 2 or a.shape[1] < 2:
        return None, "not class scores"
    top = np.argmax(a, axis=1)
    classes = len(np.unique(top))
    if classes < 5:
        return None, f"not informative: {classes} of {a.shape[1]} classes predicted, needs 5"
    ordered = np.sort(a.astype(np.float64), axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    clear = margin > tolerance.max_rel_error * float(np.max(np.abs(a)))
    if not clear.any():
        return None, "not informative: no top-2 margin above the tolerance"
    return float(np.mean(top[clear] == np.argmax(b, axis=1)[clear])), ""


def _allowed_text(output: OutputComparison, stated: Tolerance) -> str:
    allowed = stated.relaxed(output.noise)
    text = f"{allowed.max_rel_error:.0e} is allowed"
    if output.noise is None or allowed.max_rel_error <= stated.max_rel_error:
        return text
    return f"{text} ({NOISE_FACTOR} times the {output.noise.rel_error:.0e} by which the reference differs from itself)"


def _sortable(error: float) -> float:
    return float("inf") if error != error else error
