"""Run an ONNX model in memory over many inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import attribute_of
from irepdeploy.verify.runners import onnx_runner
from irepdeploy.verify.samples import Inputs, Outputs, batches, samples_in

__all__ = [
    "PROBE",
    "Inputs",
    "arrays_of",
    "free_batch",
    "outputs_of",
    "run_parts",
    "runnable",
    "samples_in",
    "with_outputs",
]

Array = np.ndarray[Any, Any]

_CHUNK = 16
_LARGE = 64
# Prefix of the names of nodes that only observe a tensor.
PROBE = "irepdeploy.range."
# These process the inputs of a batch independently, whatever their attributes.
_ONE_BY_ONE = """
    Abs Add AveragePool BatchNormalization Cast Clip Conv ConvTranspose DepthToSpace DequantizeLinear Div Elu Erf Exp
    Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity InstanceNormalization LeakyRelu MaxPool Mul
    Neg PRelu Pow QuantizeLinear Relu Sigmoid Softplus Sqrt Sub Tanh
"""


def outputs_of(model: onnx.ModelProto | bytes, inputs: Inputs) -> dict[str, Array]:
    """Return every output over all inputs, (N, ...) each.

    A model of batch 1 runs in larger batches if all its operators process inputs independently.
    """
    found = Outputs(inputs)
    for size, count, outputs in _runs(open_model(model), inputs):
        found.add(outputs, size, count)
    return found.all()


def run_parts(model: onnx.ModelProto | bytes, inputs: Inputs) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the number of inputs and the outputs of each batch; the last input is repeated to fill a static batch.

    QuantizeLinear and DequantizeLinear are computed literally, without fusion. `model` may be the result of `runnable`.
    """
    for _, count, outputs in _runs(model, inputs):
        yield count, outputs


def _runs(model: onnx.ModelProto | bytes, inputs: Inputs) -> Iterator[tuple[int, int, dict[str, Array]]]:
    with onnx_runner(model if isinstance(model, bytes) else runnable(model), as_written=True) as runner:
        arrays = _arrays(runner.inputs, inputs)
        for feeds, size, count in batches(arrays, runner.inputs, free_batch(arrays)):
            yield size, count, runner.infer(feeds)


def free_batch(inputs: Mapping[str, Array]) -> int:
    """Return the batch size for a model with a dynamic batch."""
    return 1 if any(max(array.shape[2:], default=0) > _LARGE for array in inputs.values()) else _CHUNK


def arrays_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the initializers by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def runnable(model: onnx.ModelProto) -> bytes:
    """Serialize a model; one of batch 1 with a dynamic batch if all its operators process inputs independently."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    values = [value for value in (*model.graph.input, *model.graph.output) if value.name not in arrays]
    shapes = [value.type.tensor_type.shape for value in values]
    dims = [shape.dim[0] for shape in shapes if len(shape.dim) > 0]
    alone = all(dim.dim_value == 1 for dim in dims)
    if not alone or not all(_one_by_one(node, arrays) for node in model.graph.node):
        return model.SerializeToString()
    # Restored afterwards: a copy would double the memory.
    inside = list(model.graph.value_info)
    for dim in dims:
        dim.dim_param = "irepdeploy_batch"
    del model.graph.value_info[:]
    try:
        return model.SerializeToString()
    finally:
        for dim in dims:
            dim.dim_value = 1
        model.graph.value_info.extend(inside)


def with_outputs(
    model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto], nodes: Sequence[onnx.NodeProto] = ()
) -> bytes:
    """Serialize a model with other outputs and additional nodes, as `runnable` does."""
    graph = model.graph
    count, own = len(graph.node), list(graph.output)
    del graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(outputs)
    # Restored afterwards: a copy would double the memory.
    try:
        return runnable(model)
    finally:
        del graph.node[count:]
        del graph.output[:]
        graph.output.extend(own)


def _one_by_one(node: onnx.NodeProto, arrays: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type == "Concat":
        # A constant keeps the batch size for which it was written.
        return attribute_of(node, "axis", 0) > 0 and arrays.keys().isdisjoint(node.input)
    if node.op_type == "Flatten":
        return attribute_of(node, "axis", 1) == 1
    if node.op_type == "Slice":
        axes = node.input[3] if len(node.input) > 3 else ""
        return axes in arrays and bool((onnx.numpy_helper.to_array(arrays[axes]) > 0).all())
    if node.op_type in ("ReduceMax", "ReduceMin"):
        return node.name.startswith(PROBE)
    return node.domain == "" and node.op_type in _ONE_BY_ONE.split()


def _arrays(specs: Sequence[TensorSpec], inputs: Inputs) -> Mapping[str, Array]:
    due = [spec.name for spec in specs]
    given = inputs if isinstance(inputs, Mapping) else {due[0]: inputs}
    if set(given) != set(due):
        raise InputError(f"expected inputs {sorted(due)}, got {sorted(given)}", hint="give one array for each name")
    if len({len(array) for array in given.values()}) != 1 or samples_in(inputs) == 0:
        raise InputError("expected the same number of inputs for each name, and at least one")
    return given
