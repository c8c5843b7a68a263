"""Find the first layer where two forms of a network differ by more than a tolerance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import inputs_of
from irepdeploy.onnx_graph.shapes import tensor_types
from irepdeploy.reparam.comparator import Tolerance
from irepdeploy.verify.samples import batch_size, fed, mapped

from ..precision.equalize import equalized_like
from ..precision.inference import run_parts, with_outputs
from .layer_calls import run_layers
from .layer_error import Add, LayerError, Place, first_beyond

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LayerError", "first_bad_layer", "first_bad_module"]

Array = np.ndarray[Any, Any]
Model = onnx.ModelProto | Path

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def first_bad_layer(
    reference: Model, result: Model, inputs: Mapping[str, Array], tolerance: Tolerance
) -> LayerError | None:
    """Find the first node whose output differs between two ONNX models.

    Tensors correspond if they have the same name, else if nodes of the same name and operator produce them; tensors
    without a counterpart are skipped. If the result was quantized after equalization, the reference is equalized too,
    since its hidden maps have other scales otherwise. `inputs` are (N, ...) by name.
    """
    b = open_model(result)
    a = equalized_like(open_model(reference), b)
    full = _filled(inputs, a, b)

    def run(places: Sequence[Place], add: Add) -> None:
        parts = [run_parts(_exposing(a, [place.reference for place in places]), full)]
        parts.append(run_parts(_exposing(b, [place.tensor for place in places]), full))
        for outputs_a, outputs_b in _in_step(*parts):
            for place in places:
                add(place, outputs_a[place.reference], outputs_b[place.tensor])

    return first_beyond(_common(a, b), b, full, run, tolerance)


def first_bad_module(
    model: nn.Module, result: Model, inputs: Mapping[str, Array], tolerance: Tolerance
) -> LayerError | None:
    """Find the first module whose output differs between a network and its ONNX model.

    A module corresponds to the node named after its path, with a number appended for every repeated call. A batch
    normalization without a node was folded into the module before it, which then has its output. `inputs` are (N, ...)
    by name of the ONNX's input.
    """
    b = open_model(result)
    full = _filled(inputs, b)
    names, batch = list(_inputs(b)), _batch(b, full)

    def part(start: int, count: int) -> list[Array]:
        feeds = fed(full, start, count)
        return [feeds[name] for name in names]

    where = _calls_in(model, part(0, batch), _outputs_by_node(b))

    def run(places: Sequence[Place], add: Add) -> None:
        at = {where[place]: place for place in places}

        def seen(
            outputs: Mapping[str, Array], index: int, name: str, module: object, args: object, output: Any
        ) -> None:
            if index in at:
                add(at[index], output.detach().double().cpu().numpy(), outputs[at[index].tensor])

        start = 0
        for count, outputs in run_parts(_exposing(b, [place.tensor for place in places]), full):
            run_layers(model, part(start, count), partial(seen, outputs))
            start += count

    return first_beyond(sorted(where, key=lambda place: where[place]), b, full, run, tolerance)


def _common(a: onnx.ModelProto, b: onnx.ModelProto) -> list[Place]:
    """Return the tensors common to both models, in the order of `a`."""
    floats_a, floats_b = _float_outputs(a), _float_outputs(b)
    alike = {(node.name, node.op_type, place): name for name, (node, place) in floats_b.items() if node.name}
    rounded = {name: other for name, other in _rounded(b).items() if other in floats_b}
    places = []
    for name, (node, place) in floats_a.items():
        twin: str | None = name if name in floats_b else alike.get((node.name, node.op_type, place))
        # If its output is another tensor of the reference, the node has absorbed its successor.
        if twin is not None and (twin == name or twin not in floats_a):
            places.append(Place(node.name or name, name, rounded.get(twin, twin)))
    return places


def _rounded(model: onnx.ModelProto) -> dict[str, str]:
    """Map each quantized tensor to its dequantized form; with a zero point, a ReLU is part of the rounding."""
    floats = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    quantized = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {name: floats[integers] for name, integers in quantized.items() if integers in floats}


def _float_outputs(model: onnx.ModelProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    """Map each float tensor to its node and output index, in the order of the graph."""
    kinds = {name: value.type.tensor_type.elem_type for name, value in tensor_types(model).items()}
    made = {name: (node, place) for node in model.graph.node for place, name in enumerate(node.output)}
    return {name: found for name, found in made.items() if kinds.get(name) in _FLOATS}


def _outputs_by_node(model: onnx.ModelProto) -> dict[str, str]:
    """Map the path of each module to the first output of its node; torch's exporters append the operator to it."""
    found = {}
    for name, (node, place) in reversed(_float_outputs(model).items()):
        if place == 0:
            found[node.name.removesuffix(f".{node.op_type}")] = name
    return found


def _exposing(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    kinds = {name: value.type.tensor_type.elem_type for name, value in tensor_types(model).items()}
    return with_outputs(model, [onnx.helper.make_tensor_value_info(name, kinds[name], None) for name in names])


def _in_step(*both: Iterator[tuple[int, dict[str, Array]]]) -> Iterator[list[dict[str, Array]]]:
    """Yield the outputs of two models over the same inputs, whatever batch sizes each uses."""
    counts = [0, 0]
    held: list[list[dict[str, Array]]] = [[], []]
    while True:
        behind = 0 if counts[0] <= counts[1] else 1
        count, outputs = next(both[behind], (0, {}))
        if count == 0:
            return
        counts[behind] += count
        held[behind].append(outputs)
        if counts[0] == counts[1]:
            yield [_joined(parts) for parts in held]
            held = [[], []]


def _joined(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def _filled(inputs: Mapping[str, Array], *models: onnx.ModelProto) -> Mapping[str, Array]:
    """Repeat the last input until every declared batch divides the number of inputs."""
    for model in models:
        due = sorted(_inputs(model))
        if due != sorted(inputs):
            raise InputError(f"expected inputs {due}, got {sorted(inputs)}", hint="give one array for each name")
    size = math.lcm(*(_batch(model, inputs) for model in models))
    filled: Mapping[str, Array] = mapped(
        inputs, lambda array: np.concatenate([array, np.repeat(array[-1:], -len(array) % size, axis=0)])
    )
    return filled


def _inputs(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    return {value.name: value for value in inputs_of(model.graph)}


def _batch(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> int:
    """Return the declared batch; 1 if it is dynamic."""
    specs = [
        TensorSpec(name, tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim))
        for name, value in _inputs(model).items()
    ]
    return batch_size(specs, inputs) or 1


def _calls_in(model: nn.Module, arrays: Sequence[Array], nodes: Mapping[str, str]) -> dict[Place, int]:
    """Map each tensor that also exists in the ONNX model to the index of its call."""
    from torch import nn

    where: dict[Place, int] = {}
    # Keyed by the identity of the outputs, which are kept alive so that no other tensor gets the same id.
    made: dict[int, tuple[Any, Place]] = {}

    def note(index: int, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if name in nodes:
            place = Place(name, nodes[name], nodes[name])
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and args and id(args[0]) in made:
            place = made[id(args[0])][1]
        else:
            return
        where[place] = index
        made[id(output)] = (output, place)

    run_layers(model, arrays, note)
    return where
