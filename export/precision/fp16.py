"""Convert a float32 ONNX model to float16 between float32 inputs and outputs.

Strongly typed builders (TensorRT 11, TensorRT-RTX) take the precision from the types in the file. Operators without a
known float16 form stay float32, and so do the operators after them up to the next layer with weights: positions beyond
2048 and scores that are compared need more than the 11 bits of a half. Modules named in the file's metadata also stay
float32, such as those that compute the boxes of a detector.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import attribute_of, distinct_name, drop_unread, graphs_of, subgraphs_of
from irepdeploy.onnx_graph.shapes import tensor_types

from .inference import arrays_of

__all__ = [
    "FLOAT32_KEY",
    "FP16_MAX",
    "FP16_SMALLEST_NORMAL",
    "float32_parts",
    "float_constants",
    "half_graph",
    "kept_float",
]

Array = np.ndarray[Any, Any]
Unique = Callable[[str], str]
Kind = Literal["half", "full"]

# In the metadata of a file: modules, separated by commas, whose nodes stay float32.
FLOAT32_KEY = "irepdeploy.float32"
FP16_MAX, FP16_SMALLEST_NORMAL = 65504.0, 2.0**-14

# All float inputs and outputs of these operators have the same type, so changing all of them keeps the graph valid.
# Only the scales of Resize are always float32.
_LAYERS = """
    AveragePool BatchNormalization Conv ConvTranspose Gemm GlobalAveragePool GlobalMaxPool InstanceNormalization MatMul
    MaxPool Resize
"""
# These compute in float32 if an input is float32.
_FOLLOWING = """
    Abs ArgMax ArgMin Add Ceil Clip Concat Cos DepthToSpace Div Dropout Elu Erf Exp Expand Flatten Floor Gather
    HardSigmoid HardSwish Identity LeakyRelu Log LogSoftmax Max Min Mul Neg PRelu Pad Pow ReduceMax ReduceMean ReduceMin
    ReduceSum Relu Reshape Selu Sigmoid Sin Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh
    Tile Transpose Unsqueeze Where
"""
# These square their input, which overflows beyond 256, so they stay float32 between two casts.
_WIDE = frozenset(["ReduceL2"])
_SIZES = frozenset(["Shape", "Size"])
# Integers up to this limit are exact in float16.
_SHORT = (TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL)
_BN = "BatchNormalization"


def half_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with float16 weights and activations, and a Cast after each input and before each output.

    The statistics of a batch normalization are first folded, in float64, into its scale and shift, since they may
    exceed fp16 even if scale and shift do not. `kept_float` returns the operators that stay float32.
    """
    wide = [tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.DOUBLE]
    if wide:
        raise ModelError("expected float32 constants, got float64", where=wide[0])
    constants = float_constants(model)
    half = onnx.ModelProto()
    half.CopyFrom(model)
    unique = functools.partial(distinct_name, taken=_names_in(half.graph))
    _constants_as_initializers(half.graph)
    _fold_normalizations(half.graph, constants, unique)
    kinds = _kinds(half)
    _check_overflow(half.graph, constants, kinds)
    _Converter(half, kinds, unique).convert()
    return half


def kept_float(model: onnx.ModelProto) -> dict[str, str]:
    """Return the operators that stay float32 in `half_graph`, as operator type by node name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _constants_as_initializers(copy.graph)
    names = [node.name or node.output[0] for node in copy.graph.node]
    kinds = _kinds(copy)
    return {
        name: node.op_type
        for name, node, kind in zip(names, copy.graph.node, kinds, strict=True)
        if kind == "full" and node.op_type not in ("Cast", *_SIZES)
    }


def float_constants(model: onnx.ModelProto) -> dict[str, dict[str, Array]]:
    """Return the float constants of each node, by node and by name of the tensor.

    For a batch normalization these are its effective scale and shift, (C,) float64.
    """
    arrays = {name: array for name, array in arrays_of(model).items() if array.dtype == np.float32}
    found: dict[str, dict[str, Array]] = {}
    for node in model.graph.node:
        layer = node.name or node.output[0]
        if node.op_type == "Identity" and node.input[0] in arrays:
            # torch's exporter stores equal tensors, such as fresh means and biases, once.
            arrays[node.output[0]] = arrays[node.input[0]]
        if node.op_type == _BN:
            scale, shift = _scale_and_shift(node, arrays)
            found[layer] = {f"{layer}.scale": scale, f"{layer}.shift": shift}
            continue
        own = {name: arrays[name] for name in node.input if name in arrays}
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                value = onnx.numpy_helper.to_array(attribute.t)
                own |= {node.output[0]: value} if value.dtype == np.float32 else {}
        if own:
            found[layer] = own
    return found


def _names_in(graph: onnx.GraphProto) -> set[str]:
    names = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    return names.union(*([node.name, *node.output] for node in graph.node))


def _refuse_overflow(layer: str, name: str, values: Array) -> None:
    peak = float(np.abs(values).max()) if values.size else 0.0
    if not peak <= FP16_MAX:
        raise ModelError(
            f"{name} holds {peak:.4g}, and fp16 ends at 65504",
            where=layer,
            hint="export it as fp32, or train with weight decay",
        )


def _scale_and_shift(node: onnx.NodeProto, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return scale and shift of y = x * scale + shift."""
    if any(name not in arrays for name in node.input[1:5]) or attribute_of(node, "training_mode", 0):
        raise ModelError("the statistics of this batch normalization are not constants", where=node.name)
    gamma, beta, mean, var = (arrays[name].astype(np.float64) for name in node.input[1:5])
    scale = gamma / np.sqrt(var + attribute_of(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _fold_normalizations(graph: onnx.GraphProto, constants: Mapping[str, Mapping[str, Array]], unique: Unique) -> None:
    for node in graph.node:
        if node.op_type != _BN:
            continue
        layer = node.name or node.output[0]
        scale, shift = constants[layer].values()
        # With mean 0 and variance 1, only epsilon remains of the statistics.
        scale = scale * np.sqrt(1 + attribute_of(node, "epsilon", 1e-5))
        parts = {"scale": scale, "shift": shift, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
        for index, (part, values) in enumerate(parts.items(), start=1):
            node.input[index] = unique(f"{layer}.{part}")
            graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), node.input[index]))
    drop_unread(graph)


def _constants_as_initializers(graph: onnx.GraphProto) -> None:
    """Turn float32 Constant nodes into initializers, which can be read in both types."""
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_floats"):
                values = np.array(onnx.helper.get_attribute_value(attribute), np.float32)
                tensor = onnx.numpy_helper.from_array(values, node.output[0])
            elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                tensor = attribute.t
            else:
                continue
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
            del graph.node[index]
            break


def _kinds(model: onnx.ModelProto) -> list[Kind | None]:
    """Return the float type in which each node computes; None for nodes without floats."""
    types = {name: value.type.tensor_type.elem_type for name, value in tensor_types(model).items()}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    fixed = {tensor.name for tensor in model.graph.initializer}
    full: set[str] = set()
    parts = float32_parts(model)
    found: list[Kind | None] = []
    layers, following = _LAYERS.split(), _FOLLOWING.split()
    for node in model.graph.node:
        kind: Kind | None = None
        floats = [name for name in (*node.input, *node.output) if name and types.get(name, 0) in (0, TensorProto.FLOAT)]
        known = node.domain in ("", "ai.onnx")
        if known and node.op_type == "Cast" and attribute_of(node, "to", 0) == TensorProto.FLOAT:
            given = types.get(node.input[0], 0)
            same = given == TensorProto.FLOAT and node.input[0] not in full
            kind = "half" if same or given in (*_SHORT, TensorProto.FLOAT16) else "full"
        elif known and node.op_type in (*_SIZES, "Cast"):
            kind = "full" if node.input[0] in full else "half" if floats else None
        elif floats and node.name.startswith(parts):
            kind = "full"
        elif known and node.op_type in layers:
            kind = "half"
        elif known and node.op_type in following:
            follows = any(name in full for name in node.input if name not in fixed)
            kind = None if not floats else "full" if follows else "half"
        elif floats or any(True for _ in subgraphs_of(node)):
            kind = "full"
        found.append(kind)
        if kind == "full" and not (known and node.op_type in _WIDE):
            full.update(name for name in node.output if types.get(name, 0) in (0, TensorProto.FLOAT))
    return found


def float32_parts(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the name prefixes of nodes that stay float32 according to the metadata of the file."""
    texts = [entry.value for entry in model.metadata_props if entry.key == FLOAT32_KEY]
    return tuple(f"{name}." for text in texts for name in text.split(",") if name)


def _check_overflow(
    graph: onnx.GraphProto, constants: Mapping[str, Mapping[str, Array]], kinds: list[Kind | None]
) -> None:
    for node, kind in zip(graph.node, kinds, strict=True):
        layer = node.name or node.output[0]
        for name, values in constants.get(layer, {}).items():
            if kind == "half" and not (node.op_type == "Resize" and name in node.input[1:3]):
                _refuse_overflow(layer, name, values)


class _Converter:
    """Rewrites a copy of the model, node by node, with casts where the two types meet."""

    def __init__(self, model: onnx.ModelProto, kinds: list[Kind | None], unique: Unique) -> None:
        self.graph, self.kinds, self.unique = model.graph, kinds, unique
        types = {name: value.type.tensor_type.elem_type for name, value in tensor_types(model).items()}
        self.floats = {name for name, kind in types.items() if kind == TensorProto.FLOAT}
        self.unknown = {name for node in model.graph.node for name in node.output} - types.keys()
        self.constants = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        # Type of every float tensor, and the name of its copy in the other type if one was needed.
        self.types: dict[str, Kind] = {value.name: "full" for value in model.graph.input if value.name in self.floats}
        self.other: dict[str, str] = {}
        self.uses: dict[tuple[str, Kind], list[tuple[onnx.NodeProto, int]]] = {}
        self.nodes: list[onnx.NodeProto] = []

    def convert(self) -> None:
        for node, kind in zip(list(self.graph.node), self.kinds, strict=True):
            if kind is None:
                self.nodes.append(node)
                continue
            self._read(node, kind)
            self.nodes.append(node)
            self._write(node, kind)
        self._write_constants()
        kept = onnx.GraphProto()
        kept.node.extend(self.nodes)
        del self.graph.node[:]
        self.graph.node.extend(kept.node)
        self._cast_outputs()
        self._retype_values()

    def _read(self, node: onnx.NodeProto, kind: Kind) -> None:
        if node.op_type in _SIZES or (node.op_type == "Cast" and node.input[0] in self.types):
            # These operators read either type.
            return
        for reader, place in (*((node, place) for place in range(len(node.input))), *_captures(node)):
            name = reader.input[place]
            # The scales of Resize.
            wanted: Kind = "full" if node.op_type == "Resize" and place > 0 else kind
            if name in self.constants:
                self.uses.setdefault((name, wanted), []).append((reader, place))
            elif name in self.types and self.types[name] != wanted:
                reader.input[place] = self._cast(name, wanted)

    def _cast(self, name: str, kind: Kind) -> str:
        if name not in self.other:
            to = TensorProto.FLOAT16 if kind == "half" else TensorProto.FLOAT
            self.other[name] = self.unique(f"{name}.{'half' if kind == 'half' else 'float'}")
            self.nodes.append(_cast(self.other[name], name, self.other[name], to))
        return self.other[name]

    def _write(self, node: onnx.NodeProto, kind: Kind) -> None:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT and kind == "half":
                    attribute.i = TensorProto.FLOAT16
        for place, name in enumerate(node.output):
            if name not in self.floats and not (name in self.unknown and kind == "full"):
                continue
            self.types[name] = kind
            if node.op_type in _WIDE and node.domain in ("", "ai.onnx"):
                node.output[place] = self.unique(f"{name}.float")
                self.nodes.append(_cast(self.unique(f"{name}.half"), node.output[place], name, TensorProto.FLOAT16))
                self.types[name] = "half"

    def _write_constants(self) -> None:
        """Convert each constant to the type in which it is read, or add a half copy if it is read in both."""
        outputs = {value.name for value in self.graph.output}
        for tensor in list(self.graph.initializer):
            if (tensor.name, "half") not in self.uses:
                continue
            if (tensor.name, "full") not in self.uses and tensor.name not in outputs:
                _to_half(tensor)
                self.types[tensor.name] = "half"
                continue
            second = self.graph.initializer.add()
            second.CopyFrom(tensor)
            second.name = self.unique(f"{tensor.name}.half")
            _to_half(second)
            for node, place in self.uses[tensor.name, "half"]:
                node.input[place] = second.name

    def _cast_outputs(self) -> None:
        halves = [value.name for value in self.graph.output if self.types.get(value.name) == "half"]
        renamed = {name: self.unique(f"{name}.half") for name in halves}
        for inner in graphs_of(self.graph):
            for node in inner.node:
                node.input[:] = [renamed.get(name, name) for name in node.input]
                node.output[:] = [renamed.get(name, name) for name in node.output]
        for name, half in renamed.items():
            self.graph.node.append(_cast(self.unique(f"{name}.float"), half, name, TensorProto.FLOAT))

    def _retype_values(self) -> None:
        """Update the types that the model declares."""
        weights = {tensor.name for tensor in self.graph.initializer}
        outputs = {value.name for value in self.graph.output}
        inner = [value for value in self.graph.value_info if value.name not in outputs]
        for value in (*inner, *(value for value in self.graph.input if value.name in weights)):
            if self.types.get(value.name) == "half" and value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16


def _captures(node: onnx.NodeProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield every input of the nodes in the subgraphs of a node."""
    for body in subgraphs_of(node):
        for graph in graphs_of(body):
            for inner in graph.node:
                yield from ((inner, place) for place in range(len(inner.input)))


def _to_half(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        exact = onnx.numpy_helper.to_array(tensor)
        values = exact.astype(np.float16)
        if values.size == 1 and exact.any() and not values.any():
            # A single number usually keeps a divisor from being zero.
            values = np.copysign(np.nextafter(np.float16(0), np.float16(1)), values)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _cast(name: str, source: str, output: str, kind: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [output], name, to=kind)
