"""Fold batch normalizations before and after a fully connected layer into its weights.

For y = x W + b, scale s and shift t, a batch normalization after the layer gives W diag(s) and s b + t, and one before
it gives diag(s) W and b + t W. Both are exact, because there is no border.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F

from irepdeploy.board.comparison import relative_error
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.cost import operator_cost
from irepdeploy.onnx_collapse.emit import Emitted, Names
from irepdeploy.onnx_collapse.graph import FLOATS, Array, Operator
from irepdeploy.onnx_collapse.operators.elementwise import BatchNormalization
from irepdeploy.onnx_collapse.proof import INTERIOR
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.report import Region
from irepdeploy.onnx_collapse.rewrite import Replacement, rounded

__all__ = ["merge_fully_connected"]

_LAYERS = ("Gemm", "MatMul")
_ROWS = 8


def merge_fully_connected(context: Context, names: Names) -> tuple[list[Replacement], list[Region]]:
    """Return replacements of layers together with their batch normalizations, and a report of each such layer."""
    replacements, rows = [], []
    merged: set[int] = set()
    for layer in context.graph.operators:
        chain = _Chain.around(layer, context, merged) if layer.kind in _LAYERS else None
        if chain is None:
            continue
        merged.update(operator.index for operator in chain.operators)
        try:
            replacement, error = _merged(chain, context, names)
            replacements.append(replacement)
            rows.append(_row(chain, context, replacement, error=error))
        except Refusal as refusal:
            rows.append(_row(chain, context, reason=f"{layer.name!r}: {refusal.reason}"))
    return replacements, rows


@dataclass(frozen=True)
class _Chain:
    """A layer, the batch normalizations before it, and the bias of a MatMul and batch normalizations after it."""

    before: tuple[Operator, ...]
    layer: Operator
    after: tuple[Operator, ...]

    @property
    def operators(self) -> tuple[Operator, ...]:
        return (*self.before, self.layer, *self.after)

    @classmethod
    def around(cls, layer: Operator, context: Context, taken: set[int]) -> _Chain | None:
        """Return the chain around a layer, or None if it has no adjacent batch normalization."""
        graph = context.graph
        source, before = layer.input(0), list[Operator]()
        while (found := graph.producers.get(source)) is not None and _normalizes(found, context):
            if found.index in taken or not _only_read_once(source, context) or layer.attributes.get("transA"):
                break
            before.insert(0, found)
            source = found.input(0)
        result, after = layer.outputs[0], list[Operator]()
        while _only_read_once(result, context):
            reader = graph.readers[result][0]
            bias = reader.kind == "Add" and layer.kind == "MatMul" and not after
            if not (_normalizes(reader, context) or (bias and any(map(graph.is_constant, reader.inputs)))):
                break
            after.append(reader)
            result = reader.outputs[0]
        chain = cls(tuple(before), layer, tuple(after))
        return chain if any(operator.kind == "BatchNormalization" for operator in chain.operators) else None


def _normalizes(operator: Operator, context: Context) -> bool:
    """Return whether an operator is a batch normalization of a matrix."""
    shape = context.graph.shape(operator.outputs[0])
    return operator.kind == "BatchNormalization" and shape is not None and len(shape) == 2


def _only_read_once(name: str, context: Context) -> bool:
    readers = context.graph.readers.get(name, [])
    return len(readers) == 1 and name not in context.graph.outputs and readers[0].inputs.count(name) == 1


def _merged(chain: _Chain, context: Context, names: Names) -> tuple[Replacement, float]:
    layer, result = chain.layer, chain.operators[-1].outputs[0]
    weight, bias = _weight_and_bias(layer, context)
    x = np.random.default_rng(0).standard_normal((_ROWS, weight.shape[0]))
    # The last row is zero, which isolates the bias.
    x[-1] = 0
    expected = _normalized(x, chain.before, context) @ weight + bias
    for operator in chain.after:
        if operator.kind == "Add":
            constant = next(place for place, name in enumerate(operator.inputs) if context.graph.is_constant(name))
            added = _row_of(context.array(operator, constant), weight.shape[1])
            expected, bias = expected + added, bias + added
            continue
        expected = _normalized(expected, [operator], context)
        scale, shift = _scale_shift(operator, weight.shape[1], context)
        weight, bias = weight * scale, bias * scale + shift
    for operator in reversed(chain.before):
        scale, shift = _scale_shift(operator, weight.shape[0], context)
        weight, bias = scale[:, None] * weight, bias + shift @ weight
    error = relative_error(expected, x @ weight + bias)
    if not error <= INTERIOR:
        raise Refusal(f"merged weights differ by {error:.1e}, allowed {INTERIOR:.0e}")
    transposed = bool(layer.attributes.get("transB", 0))
    emitted = Emitted()
    arrays = {names(f"{result}.weight"): weight.T if transposed else weight, names(f"{result}.bias"): bias}
    kept = {key: value for key, value in layer.attributes.items() if key in ("transA", "transB")}
    source = (chain.before or (layer,))[0].input(0)
    emitted.nodes[result] = [onnx.helper.make_node("Gemm", [source, *arrays], [result], name=layer.name, **kept)]
    kind = FLOATS.get(context.graph.shapes.type(result))
    if kind is None:
        raise Refusal("it is not of float16, float32 or float64")
    return Replacement(chain.operators, emitted, rounded(arrays, kind)), error


def _weight_and_bias(layer: Operator, context: Context) -> tuple[Array, Array]:
    """Return the weight (inputs, outputs) and the bias (outputs,) of a fully connected layer, in float64."""
    weight = context.array(layer, 1)
    shape = context.graph.shape(layer.input(0))
    if weight is None or weight.ndim != 2 or shape is None or len(shape) != 2:
        raise Refusal("it does not multiply two matrices")
    if layer.kind == "MatMul":
        return weight, np.zeros(weight.shape[1])
    weight = layer.attributes.get("alpha", 1.0) * (weight.T if layer.attributes.get("transB", 0) else weight)
    bias = context.array(layer, 2)
    addend = 0.0 if bias is None else layer.attributes.get("beta", 1.0) * bias
    return weight, _row_of(addend, weight.shape[1])


def _row_of(addend: Array | float | None, outputs: int) -> Array:
    """Return a constant that is added to every row, (outputs,), or raise Refusal if it differs between rows."""
    array = np.asarray(addend, np.float64)
    if array.size not in (1, outputs) or array.shape[-1:] not in ((), (1,), (outputs,)):
        raise Refusal("its bias differs by row")
    return np.broadcast_to(array.reshape(-1), (outputs,)).copy()


def _scale_shift(operator: Operator, channels: int, context: Context) -> tuple[Array, Array]:
    scale, shift = BatchNormalization.scale_shift(operator, channels, context)
    return scale.numpy(), shift.numpy()


def _normalized(x: Array, operators: Sequence[Operator], context: Context) -> Array:
    """Apply batch normalizations with torch, whose arithmetic is independent of the merge."""
    for operator in operators:
        gamma, beta, mean, var = (context.tensor(operator, place) for place in range(1, 5))
        eps = operator.attributes.get("epsilon", 1e-5)
        x = F.batch_norm(torch.from_numpy(x), mean, var, gamma, beta, eps=eps).numpy()
    return x


def _row(
    chain: _Chain, context: Context, new: Replacement | None = None, *, error: float | None = None, reason: str = ""
) -> Region:
    before = dict(sorted(Counter(operator.kind for operator in chain.operators).items()))
    weight = context.graph.constant(chain.layer.input(1))
    layer = 0 if weight is None else weight.native.size
    macs = layer + sum(operator_cost(operator, context).macs for operator in chain.operators)
    return Region(
        name=chain.operators[-1].name,
        operators_in=before,
        operators_out={"Gemm": 1} if new else before,
        macs_before=macs,
        macs_after=layer if new else macs,
        reason=reason,
        error_interior=error,
        sources=(chain.operators[0].input(0),),
        results=(chain.operators[-1].outputs[0],),
    )
