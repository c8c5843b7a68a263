"""Report of a quantization: its loss, layer by layer, and the measures taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from irepdeploy.board.json_values import json_safe
from irepdeploy.reparam.comparator import Tolerance, compare_outputs

__all__ = ["Equalization", "Int8Layer", "Int8Loss", "Int8Report", "finite", "loss_between", "sqnr_db"]

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]

MIN_COSINE = 0.99
# Classes must agree if the two best scores differ by more than this share of the largest score.
_MARGIN = 1e-2
_FORMS = {"int8": "symmetric per tensor", "uint8": "with a zero point per tensor"}


@dataclass(frozen=True)
class Int8Loss:
    """Loss of int8 relative to float32 on the evaluation inputs.

    Args:
        logit_sqnr_db: 10 log10(sum a^2 / sum (a - b)^2) over all outputs; None if they are equal.
        accuracy: Top-1 accuracy in percent of float32 and of int8; None without labels.
        top1_agreement: Share of inputs with the same class; None if it is not informative.
        drop: Percentage points lost in accuracy or, without labels, in agreement; None if neither is known.
        problem: What makes a comparison impossible (NaN, all zero), or "".
    """

    logit_sqnr_db: float | None
    cosine: float
    accuracy: tuple[float, float] | None
    top1_agreement: float | None
    top1_note: str
    drop: float | None
    problem: str = ""

    @property
    def reason(self) -> str:
        """The decisive figures in words."""
        if self.problem:
            return self.problem
        text = f"cosine {self.cosine:.4f}"
        if self.drop is not None:
            text += f", {self.drop:.2f} points of {'agreement' if self.accuracy is None else 'accuracy'} lost"
        return text

    def within(self, max_drop: float) -> bool:
        """Return whether the cosine is at least 0.99 and at most `max_drop` percentage points are lost."""
        # Accuracies are ratios of integers: a loss equal to the budget must not fail because of rounding.
        drop_ok = self.drop is None or self.drop <= max_drop + 1e-9
        return not self.problem and self.cosine >= MIN_COSINE and drop_ok


@dataclass(frozen=True)
class Int8Layer:
    """A layer that can be quantized.

    Args:
        tensor_db: SQNR of its weights in int8 with a single scale; None if int8 is exact.
        channel_db: SQNR with one scale for each output channel.
        worst_channel_db: Smallest SQNR of any channel with a single scale.
        alone_db: Logit SQNR if only this layer is quantized; None if the sensitivity pass was not needed.
    """

    layer: str
    operator: str
    kept_float: bool
    tensor_db: float | None
    channel_db: float | None
    worst_channel_db: float | None
    alone_db: float | None = None


@dataclass(frozen=True)
class Equalization:
    """Effect of cross-layer equalization.

    Args:
        kept: Whether it raised the logit SQNR on 32 calibration inputs by 0.5 dB and was kept.
        maps: Number of hidden maps that it changed.
        largest_factor: Largest factor of a channel, up or down.
        max_rel_error: Error of the equalized float32 model relative to the model.
    """

    kept: bool
    maps: int
    largest_factor: float = 1.0
    sqnr_before_db: float | None = None
    sqnr_after_db: float | None = None
    max_rel_error: float | None = None


@dataclass(frozen=True)
class Int8Report:
    """Description of a quantized model.

    Args:
        measured_on: Description of the evaluation inputs; never a test set.
        size_bytes: Size of the ONNX in float32 and in int8.
    """

    loss: Int8Loss
    layers: tuple[Int8Layer, ...]
    equalization: Equalization
    calibration: dict[str, Any]
    measured_on: dict[str, Any]
    max_drop: float
    activations: str
    size_bytes: tuple[int, int]
    notes: tuple[str, ...] = field(default=())

    @property
    def kept_float(self) -> tuple[str, ...]:
        """The names of the layers that stay float32."""
        return tuple(layer.layer for layer in self.layers if layer.kept_float)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        loss = asdict(self.loss)
        accuracy = loss.pop("accuracy")
        plain = {
            "activations": f"{self.activations}, {_FORMS[self.activations]}",
            "weights": "int8, symmetric per output channel",
            **loss,
            "accuracy": None if accuracy is None else {"float32": accuracy[0], "int8": accuracy[1]},
            "max_drop": self.max_drop,
            "measured_on": self.measured_on,
            "calibration": self.calibration,
            "kept_float": list(self.kept_float),
            "equalisation": asdict(self.equalization),
            "size_bytes": {"float32": self.size_bytes[0], "int8": self.size_bytes[1]},
            "notes": list(self.notes),
            "layers": [asdict(layer) for layer in self.layers],
        }
        return json_safe(plain)


# Classes (N,), or a function that gives the score of outputs in percent.
Labels = Array | Callable[[Outputs], float]


def loss_between(a: Outputs, b: Outputs, labels: Labels | None = None) -> Int8Loss:
    """Return the loss of outputs `b` relative to `a`; `labels` are classes (N,), or a score of outputs (N, ...)."""
    comparison = compare_outputs(a, b, Tolerance(_MARGIN, MIN_COSINE))
    problem = next((f"output {output.name!r}: {output.problem}" for output in comparison.outputs if output.problem), "")
    cosine = min(output.cosine for output in comparison.outputs)
    scores = next((output for output in comparison.outputs if a[output.name].ndim == 2), None)
    agreement = None if scores is None else scores.top1_agreement
    note = "not class scores" if scores is None else scores.top1_note
    accuracy = None
    drop = None if agreement is None else 100 * (1 - agreement)
    if callable(labels):
        accuracy = (labels(a), labels(b))
        drop = accuracy[0] - accuracy[1]
    elif labels is not None and scores is not None and not problem:
        accuracy = (_accuracy(a[scores.name], labels), _accuracy(b[scores.name], labels))
        drop = accuracy[0] - accuracy[1]
    return Int8Loss(finite(sqnr_db(a, b)), cosine, accuracy, agreement, note, drop, problem)


def sqnr_db(a: Outputs, b: Outputs) -> float:
    """Return 10 log10(sum a^2 / sum (a - b)^2) over all outputs.

    The result is infinite if nothing differs, and minus infinity if a value is not finite.
    """
    pairs = [(a[name].astype(np.float64), b[name].astype(np.float64)) for name in a]
    signal = sum(float((x * x).sum()) for x, _ in pairs)
    noise = sum(float(((x - y) ** 2).sum()) for x, y in pairs)
    if not math.isfinite(noise) or signal == 0:
        return -math.inf
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def _accuracy(scores: Array, labels: Array) -> float:
    return 100 * float(np.mean(scores.argmax(1) == labels))


def finite(value: float) -> float | None:
    """Return the value, or None if it is NaN or infinite."""
    return value if math.isfinite(value) else None
