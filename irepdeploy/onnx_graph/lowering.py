"""Lower an ONNX model to an earlier opset and to the operators and forms that a target supports.

onnx's version converter cannot convert several operators that torch's exporter writes, such as Pad and Split, to
earlier opsets. Here every operator with a different schema in the earlier opset is rewritten node by node, or refused
by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from irepdeploy.onnx_graph.decompositions import DECOMPOSITIONS
from irepdeploy.onnx_graph.proto import attribute_of, drop_unread, graphs_of, nodes_of, opset_of
from irepdeploy.onnx_graph.site import Site, drop_attributes, set_attribute

__all__ = ["OLDEST", "lowered", "rewrite", "without_deprecated"]

# Changes of operators before this opset are not supported here.
OLDEST = 13
_OWN = ("", "ai.onnx")
_PAD_WRAPS, _CHANNEL_SCALES, _GRID_MODES = 19, 21, 20
# The result of a pass may contain operators that need another pass.
_PASSES = 4


def lowered(
    model: onnx.ModelProto,
    opset: int,
    operators: Collection[str] | None = None,
    *,
    reduce_inputs: bool = True,
    label: str | None = None,
) -> onnx.ModelProto:
    """Return a model, changed in place, in an opset from 13 up to its own.

    The caller must check that the result computes the same values.

    Args:
        model: A model without functions of its own.
        opset: Opset of the result.
        operators: Operators that the target supports. Other operators are expressed in terms of these if possible, and
            kept otherwise. None allows all operators of the opset.
        reduce_inputs: Whether reductions may have their axes as an input.
        label: Name of the model in error messages.

    Raises:
        ModelError: An operator cannot be written in that opset.
    """
    given, result = opset_of(model), model
    for _ in range(_PASSES):
        wanted = {node.op_type for node in nodes_of(result) if _is_new(node, given, opset, operators)}
        own = wanted & DECOMPOSITIONS.keys()
        if own:
            rewrite(result, Site(result, given, label), functools.partial(_decompose, names=own))
        # The remaining operators are replaced by ONNX's own function bodies.
        others = sorted(name for name in wanted - own if _has_body(name, given))
        if others:
            result = onnx.inliner.inline_selected_functions(
                result, [("", name) for name in others], inline_schema_functions=True
            )
        if not own and not others:
            break
    rules = _Rules(given, opset, reduce_inputs)
    rewrite(result, Site(result, given, label), rules.apply)
    for entry in result.opset_import:
        if entry.domain in _OWN:
            entry.version = opset
    drop_unread(result.graph)
    return result


def _is_new(node: onnx.NodeProto, given: int, opset: int, operators: Collection[str] | None) -> bool:
    """Return whether the target lacks an operator, or has a different operator of this name."""
    if node.domain not in _OWN or not onnx.defs.has(node.op_type, given, ""):
        return False
    if not onnx.defs.has(node.op_type, opset, "") or (operators is not None and node.op_type not in operators):
        return True
    return bool(node.op_type == "GroupNormalization" and opset < _CHANNEL_SCALES <= given)


def _has_body(name: str, opset: int) -> bool:
    schema: Any = onnx.defs.get_schema(name, opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


def without_deprecated(model: onnx.ModelProto, label: str | None = None) -> int:
    """Replace GroupNormalization of opsets 18 to 20 by other operators, in place, and return how many there were.

    ONNX deprecated this version of the operator: the checker refuses it, and shape inference does not support it.
    """
    name, given = "GroupNormalization", opset_of(model)
    count = sum(node.op_type == name and node.domain in _OWN for node in nodes_of(model))
    if not count or given >= _CHANNEL_SCALES or not onnx.defs.has(name, given, ""):
        return 0
    rewrite(model, Site(model, given, label), functools.partial(_decompose, names={name}))
    return count


def rewrite(model: onnx.ModelProto, at: Site, rule: Callable[[Site], None]) -> None:
    """Apply a rule to every node of ONNX's own domain, starting with those of inner graphs."""
    for graph in reversed(list(graphs_of(model))):
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            at.move_to(graph, node)
            if node.domain in _OWN:
                rule(at)
            nodes += at.after or [node]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _decompose(at: Site, names: Collection[str]) -> None:
    if at.node.op_type in names:
        DECOMPOSITIONS[at.node.op_type](at)


class _Rules:
    """Rules that rewrite nodes to their forms in an earlier opset."""

    def __init__(self, given: int, opset: int, reduce_inputs: bool) -> None:
        self._given, self._opset, self._reduce_inputs = given, opset, reduce_inputs

    def apply(self, at: Site) -> None:
        """Rewrite one node."""
        node = at.node
        if not onnx.defs.has(node.op_type, self._given, ""):
            return
        if not onnx.defs.has(node.op_type, self._opset, ""):
            at.refuse(f"does not exist in opset {self._opset}, only from {self._schema(node, self._given)} on")
        if node.op_type.startswith("Reduce"):
            self._reduce(at)
        if self._schema(node, self._given) == self._schema(node, self._opset):
            return
        if node.op_type in _FORMS:
            _FORMS[node.op_type](at, self._opset)
        self._fit(at)

    @staticmethod
    def _schema(node: onnx.NodeProto, opset: int) -> int:
        return int(onnx.defs.get_schema(node.op_type, opset, "").since_version)

    def _fit(self, at: Site) -> None:
        """Remove attributes and inputs that the earlier operator lacks, which must have their defaults."""
        node = at.node
        old = onnx.defs.get_schema(node.op_type, self._opset, "")
        new = onnx.defs.get_schema(node.op_type, self._given, "")
        for item in list(node.attribute):
            if item.name not in old.attributes and item.name in new.attributes:
                value = onnx.helper.get_attribute_value(item)
                if not _is_default(value, new.attributes[item.name].default_value):
                    text = value.decode(errors="replace") if isinstance(value, bytes) else value
                    at.refuse(f"with {item.name} {text} cannot be written in opset {self._opset}")
                drop_attributes(node, item.name)
        while node.input and not node.input[-1]:
            del node.input[-1]
        if len(node.input) > old.max_input:
            extra = new.inputs[old.max_input].name
            at.refuse(f"with an input {extra!r} cannot be written in opset {self._opset}")

    def _reduce(self, at: Site) -> None:
        """Convert the axes of a reduction to an attribute, if its opset or the target requires it."""
        node = at.node
        takes_attribute = "axes" in onnx.defs.get_schema(node.op_type, self._opset, "").attributes
        if self._reduce_inputs and not takes_attribute:
            return
        noop = attribute_of(node, "noop_with_empty_axes", 0)
        axes = [int(axis) for axis in at.needed(1, "axes").reshape(-1)] if at.given(1) else []
        drop_attributes(node, "noop_with_empty_axes")
        del node.input[1:]
        if not axes and noop:
            if node.op_type not in _PLAIN:
                at.refuse("over no axes cannot be written otherwise")
            at.emit("Identity", [node.input[0]])
        elif axes and takes_attribute:
            set_attribute(node, "axes", axes)
        elif axes:
            self._sum_as_mean(at, axes)

    def _sum_as_mean(self, at: Site, axes: list[int]) -> None:
        """Write a sum, whose axes are an input since opset 13, as a mean times a count."""
        node, kind = at.node, at.kind(at.node.input[0])
        takes_attribute = "axes" in onnx.defs.get_schema("ReduceMean", self._opset, "").attributes
        if node.op_type != "ReduceSum" or kind not in _FLOATS or not takes_attribute:
            at.refuse("with its axes as an input, which the target does not support")
        shape = at.known_shape(0)
        sizes = [shape[axis] for axis in axes if -len(shape) <= axis < len(shape)]
        if None in sizes:
            at.refuse("over a free size with its axes as an input, which the target does not support")
        count = at.constant(np.prod([size or 0 for size in sizes]), "count", kind)
        keepdims = attribute_of(node, "keepdims", 1)
        at.emit("Mul", [at.emit("ReduceMean", [node.input[0]], "mean", axes=axes, keepdims=keepdims), count])


# Reductions that return a single number unchanged.
_PLAIN = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"}
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def _is_default(value: Any, default: onnx.AttributeProto) -> bool:
    if default.type:
        return bool(value == onnx.helper.get_attribute_value(default))
    # If the schema has no default, the default is 0, an empty text, or 1 along every axis.
    return value in (0, b"") or (isinstance(value, list) and all(item == 1 for item in value))


def _pad(at: Site, opset: int) -> None:
    node = at.node
    if opset < _PAD_WRAPS and attribute_of(node, "mode", b"constant") == b"wrap":
        at.refuse(f"with mode wrap cannot be written in opset {opset}")
    if at.given(3):
        axes, pads, rank = at.needed(3, "axes"), at.needed(1, "pads"), len(at.known_shape(0))
        whole = np.zeros((2, rank), np.int64)
        whole[:, axes] = pads.reshape(2, -1)
        node.input[1] = at.constant(whole.reshape(-1), "pads")
    del node.input[3:]


def _split(at: Site, opset: int) -> None:
    node = at.node
    count = attribute_of(node, "num_outputs", 0)
    drop_attributes(node, "num_outputs")
    shape = at.shape(node.input[0])
    size = shape[attribute_of(node, "axis", 0)] if shape else None
    if count and size is not None and size % count:
        part = -(-size // count)
        sizes = [max(min(part, size - part * place), 0) for place in range(count)]
        del node.input[1:]
        node.input.append(at.constant(sizes, "split"))


def _resize(at: Site, opset: int) -> None:
    node = at.node
    axes = attribute_of(node, "axes", None)
    policy = attribute_of(node, "keep_aspect_ratio_policy", b"stretch")
    if attribute_of(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel_symmetric":
        at.refuse(f"with half_pixel_symmetric cannot be written in opset {opset}")
    if policy != b"stretch" and at.given(3):
        at.refuse(f"with keep_aspect_ratio_policy {policy.decode()} cannot be written in opset {opset}")
    drop_attributes(node, "axes", "keep_aspect_ratio_policy")
    if axes is None:
        return
    shape = at.known_shape(0)
    places = [axis % len(shape) for axis in axes]
    if at.given(1):
        regions = np.zeros((2, len(shape)))
        regions[1] = 1
        regions[:, places] = at.needed(1, "roi").reshape(2, -1)
        node.input[1] = at.constant(regions.reshape(-1), "roi", at.kind(node.input[1]))
    if at.given(2):
        scales = np.ones(len(shape))
        scales[places] = at.needed(2, "scales")
        node.input[2] = at.constant(scales, "scales", onnx.TensorProto.FLOAT)
    if at.given(3):
        if None in shape:
            at.refuse("to sizes along some axes, of an input with free sizes, cannot be written in an earlier opset")
        whole = np.array(shape, np.int64)
        whole[places] = at.needed(3, "sizes")
        node.input[3] = at.constant(whole, "sizes")


def _grid_sample(at: Site, opset: int) -> None:
    if opset < _GRID_MODES:
        if len(at.known_shape(0)) != 4:
            at.refuse(f"of volumes cannot be written in opset {opset}")
        mode = attribute_of(at.node, "mode", b"linear").decode()
        set_attribute(at.node, "mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))


def _quantize(at: Site, opset: int) -> None:
    node, kind = at.node, attribute_of(at.node, "output_dtype", 0)
    if kind and not at.given(2):
        scale = at.shape(node.input[1])
        if scale is None or None in scale:
            at.refuse("without a zero point, by scales of unknown sizes")
        del node.input[2:]
        node.input.append(at.constant(np.zeros([size or 0 for size in scale]), "zero_point", kind))
    drop_attributes(node, "output_dtype")


def _dequantize(at: Site, opset: int) -> None:
    kind = attribute_of(at.node, "output_dtype", 0)
    if kind == at.kind(at.node.input[1]):
        drop_attributes(at.node, "output_dtype")


def _cast(at: Site, opset: int) -> None:
    # Both attributes concern types that the earlier operator lacks.
    drop_attributes(at.node, "saturate", "round_mode")


def _scatter(at: Site, opset: int) -> None:
    reduction = attribute_of(at.node, "reduction", b"none")
    if opset < 18 and reduction in (b"min", b"max"):
        at.refuse(f"with reduction {reduction.decode()} cannot be written in opset {opset}")


def _dft(at: Site, opset: int) -> None:
    if opset < 20:
        axis = int(at.needed(2, "axis").reshape(-1)[0]) if at.given(2) else -2
        rank = len(at.known_shape(0))
        del at.node.input[2:]
        set_attribute(at.node, "axis", axis % rank)


_FORMS: dict[str, Callable[[Site, int], None]] = {
    "Cast": _cast,
    "DFT": _dft,
    "DequantizeLinear": _dequantize,
    "GridSample": _grid_sample,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Split": _split,
}
