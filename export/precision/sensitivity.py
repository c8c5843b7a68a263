"""Quantize to int8 within a budget, keeping the most sensitive layers in float until the loss is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np
import onnx

from irepdeploy.errors import CheckFailed, InputError, counted
from irepdeploy.onnx_graph.proto import attribute_of
from irepdeploy.profiling.health import kernel_health
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.verify.samples import Inputs, mapped

from .calibration import CalibrationData
from .equalize import equalized
from .inference import arrays_of, outputs_of
from .int8 import Ranges, quantizable, quantized
from .int8_report import Equalization, Int8Layer, Int8Loss, Int8Report, finite, loss_between, sqnr_db
from .ranges import tensor_ranges

__all__ = ["int8_model"]

_SAME = 1e-5
# A smaller gain may be chance, so the weights then stay unchanged.
_WORTH_DB = 0.5
# Enough to rank layers by dB; the result is measured on all inputs.
_PROBES = 32
# Number of layers named in the error message.
_NAMED = 3


def int8_model(
    model: onnx.ModelProto,
    data: CalibrationData,
    *,
    max_drop: float = 0.5,
    activations: str = "int8",
    equalize: bool = True,
    report: Callable[[str], None] = lambda step: None,
) -> tuple[onnx.ModelProto, Int8Report]:
    """Quantize a model with a loss of at most `max_drop` percentage points.

    Weights are int8 per channel, equalized if that raises the logit SQNR on the calibration inputs by 0.5 dB. If the
    loss is still too large, each layer is quantized alone to measure its cost, and bisection finds how few of the
    costliest must stay float32. The loss is that of accuracy if `data` has labels, else of agreement with float32.

    Args:
        model: The float32 model.
        data: Inputs for calibration and evaluation.
        max_drop: Largest loss in percentage points.
        activations: "int8" for TensorRT, "uint8" for ONNX Runtime.
        equalize: Whether to try cross-layer equalization.
        report: Function called with each step.

    Raises:
        CheckFailed: The loss exceeds `max_drop` unless every layer stays float.
    """
    if not (isinstance(max_drop, int | float) and math.isfinite(max_drop) and max_drop >= 0):
        raise InputError(f"expected max_drop in percentage points, at least 0, got {max_drop!r}", where="--max-drop")
    search = _Search(model, data, max_drop, activations, report)
    if equalize:
        search.equalize()
    result, loss, kept = search.quantize()
    return result, search.describe(result, loss, kept)


class _Search:
    def __init__(
        self,
        model: onnx.ModelProto,
        data: CalibrationData,
        max_drop: float,
        activations: str,
        report: Callable[[str], None],
    ) -> None:
        self.model, self.data, self.max_drop = model, data, max_drop
        self.activations, self.report = activations, report
        self.original = model
        self.layers = quantizable(model)
        self.ranges: Ranges = tensor_ranges(model, data.calibration.array)
        self.reference = outputs_of(model, data.evaluation.array)
        self.equalization = Equalization(kept=False, maps=0)
        self.alone: dict[str, float] = {}

    def equalize(self) -> None:
        """Continue with the equalized model if that raises the logit SQNR."""
        other, factors = equalized(self.model)
        changed = [scale for scale in factors.values() if (scale != 1).any()]
        if not changed:
            return
        ranges = tensor_ranges(other, self.data.calibration.array)
        array = _probes(self.data.calibration.array)
        plain = outputs_of(self.model, array)
        before = sqnr_db(plain, outputs_of(self._quantized(self.model, self.ranges, ()), array))
        after = sqnr_db(plain, outputs_of(self._quantized(other, ranges, ()), array))
        same = outputs_of(other, array)
        error = max(relative_error(plain[name], same[name]) for name in plain)
        kept = after > before + _WORTH_DB and error <= _SAME
        largest = max(float(np.maximum(scale, 1 / scale).max()) for scale in changed)
        self.equalization = Equalization(kept, len(changed), largest, finite(before), finite(after), error)
        self.report(f"equalization: logit SQNR {before:.1f} -> {after:.1f} dB, {'kept' if kept else 'not kept'}")
        if kept:
            self.model, self.ranges = other, ranges

    def quantize(self) -> tuple[onnx.ModelProto, Int8Loss, Collection[str]]:
        """Find by bisection the model with as few layers in float as possible."""
        result = self._try(())
        if result[1].within(self.max_drop):
            return result
        ranked = self._ranked()
        # It fails with `few` of them in float and passes with `many`; with all of them it would not be int8.
        few, many, best = 0, len(ranked), None
        while many - few > 1:
            count = (few + many) // 2
            tried = self._try(ranked[:count])
            if tried[1].within(self.max_drop):
                many, best = count, tried
            else:
                few, result = count, tried
        if best is None:
            # A larger budget does not help where only the cosine is known.
            raised = "" if result[1].drop is None else "raise --max-drop, "
            raise CheckFailed(
                f"int8 loses too much: {result[1].reason}, with all but {len(ranked) - few} of "
                f"{counted(len(ranked), 'layer')} "
                f"in float; the costliest are {', '.join(ranked[:_NAMED])}",
                where=self.data.evaluation.name,
                hint=f"calibrate on typical inputs with --inputs, {raised}or export fp16"
                if self.data.is_real
                else "these inputs are random: calibrate with real ones, --inputs FILE",
            )
        return best

    def describe(self, result: onnx.ModelProto, loss: Int8Loss, kept: Collection[str]) -> Int8Report:
        sizes = (self.original.ByteSize(), result.ByteSize())
        notes = list(self.data.notes)
        if sizes[1] >= sizes[0]:
            notes.append("the int8 file is not smaller than the float32 one: int8 is not advised here")
        count = self.data.evaluation.count
        if loss.drop is not None:
            notes.append(f"one of the {count} inputs is {100 / count:.2g} percentage points")
        elif loss.top1_note:
            notes.append(f"--max-drop had no effect, because the loss could not be measured: {loss.top1_note}")
        return Int8Report(
            loss=loss,
            layers=tuple(self._layers(kept)),
            equalization=self.equalization,
            calibration=self.data.calibration.to_dict(),
            measured_on={**self.data.evaluation.to_dict(), "labels": self.data.labels is not None},
            max_drop=self.max_drop,
            activations=self.activations,
            size_bytes=sizes,
            notes=tuple(notes),
        )

    def _layers(self, kept: Collection[str]) -> list[Int8Layer]:
        arrays, found = arrays_of(self.model), []
        nodes = {node.name: node for node in self.model.graph.node}
        for name in self.layers:
            node = nodes[name]
            weight = arrays[node.input[1]]
            across = node.op_type == "Gemm" and not attribute_of(node, "transB", 0)
            health = kernel_health(weight.T if across else weight)
            figures = (health.int8_tensor_db, health.int8_channel_db, health.int8_worst_channel_db)
            alone = self.alone.get(name)
            found.append(
                Int8Layer(name, node.op_type, name in kept, *figures, None if alone is None else finite(alone))
            )
        return found

    def _ranked(self) -> list[str]:
        """Return the layers, costliest first: those with the smallest logit SQNR when quantized alone."""
        array = _probes(self.data.evaluation.array)
        plain = {name: output[:_PROBES] for name, output in self.reference.items()}
        for index, layer in enumerate(self.layers, start=1):
            others = [name for name in self.layers if name != layer]
            self.alone[layer] = sqnr_db(plain, outputs_of(self._quantized(self.model, self.ranges, others), array))
            self.report(f"sensitivity {index}/{len(self.layers)}: {layer} alone {self.alone[layer]:.1f} dB")
        return sorted(self.layers, key=lambda name: self.alone[name])

    def _try(self, kept: Collection[str]) -> tuple[onnx.ModelProto, Int8Loss, Collection[str]]:
        result = self._quantized(self.model, self.ranges, kept)
        loss = loss_between(self.reference, outputs_of(result, self.data.evaluation.array), self.data.labels)
        self.report(f"int8 with {len(kept)} of {counted(len(self.layers), 'layer')} in float: {loss.reason}")
        return result, loss, kept

    def _quantized(self, model: onnx.ModelProto, ranges: Ranges, kept: Collection[str]) -> onnx.ModelProto:
        return quantized(model, ranges=ranges, keep_float=kept, activations=self.activations)


def _probes(inputs: Inputs) -> Inputs:
    few: Inputs = mapped(inputs, lambda array: array[:_PROBES])
    return few
