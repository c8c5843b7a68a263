"""Convert an ONNX model to another opset: upwards with onnx's version converter, downwards with `lowered`."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from irepdeploy.errors import ModelError, first_line
from irepdeploy.onnx_graph.lowering import OLDEST, lowered, rewrite
from irepdeploy.onnx_graph.proto import (
    attribute_of,
    constants_of,
    drop_weight_inputs,
    graphs_of,
    inlined,
    nodes_of,
    opset_of,
)
from irepdeploy.onnx_graph.shapes import inferred_graph
from irepdeploy.onnx_graph.site import Site, set_attribute
from irepdeploy.onnx_graph.written import fits_one_file

__all__ = ["converted"]

# Since this IR version, weights need not be inputs; the converter adds some that are not.
_FREE_WEIGHTS = 4
# Before this opset, Resize had no modes; Upsample never had any.
_RESIZE_MODES = 11
# Before this opset, Hardmax covered all axes from its own on; since then it covers only this axis.
_ONE_AXIS = 13
_OWN = ("", "ai.onnx")


def converted(
    model: onnx.ModelProto,
    opset: int,
    label: str | None = None,
    *,
    operators: Collection[str] | None = None,
    reduce_inputs: bool = True,
) -> onnx.ModelProto:
    """Return a copy of a model in another opset, with the operators and forms that a target supports.

    The caller must check that the result computes the same values, because the converter is wrong for some operators.

    Args:
        model: The model; it is not changed.
        opset: Opset of the result.
        label: Name of the model in error messages.
        operators: Operators that the target supports; see `lowered`.
        reduce_inputs: Whether reductions may have their axes as an input.

    Raises:
        ModelError: An operator cannot be converted.
    """
    given = opset_of(model)
    try:
        source = onnx.ModelProto()
        source.CopyFrom(inlined(model))
        drop_weight_inputs(source.graph)
        source.ir_version = max(source.ir_version, _FREE_WEIGHTS)
        raised = opset > given or opset < OLDEST
        if raised:
            _prepare(source, given, opset, label)
        result = _by_converter(source, given, opset) if raised else source
        if opset >= OLDEST:
            result = lowered(result, opset, operators, reduce_inputs=reduce_inputs, label=label)
        _declare_outputs(result)
        if fits_one_file(result):
            onnx.checker.check_model(result)
    # The converter raises RuntimeError, even for faults that its own checks find, and ConvertError for unknown names.
    except (
        RuntimeError,
        ValueError,
        onnx.version_converter.ConvertError,
        EncodeError,
        onnx.checker.ValidationError,
    ) as error:
        raise ModelError(f"{_cannot(given, opset)}: {_reason(error)}", where=label, hint=_hint(given, opset)) from error
    except ModelError as error:
        what = f"{_cannot(given, opset)}: {error.what}"
        raise ModelError(what, where=label, hint=error.hint or _hint(given, opset)) from error
    return result


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Set missing shapes of outputs to the inferred ones, in place, because the checker requires them."""
    lacking = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    known = {value.name: value for value in inferred_graph(model, data_prop=True).output} if lacking else {}
    for value in lacking:
        if not known[value.name].type.tensor_type.HasField("shape"):
            raise ModelError(f"the rank of output {value.name!r} is not known", hint="declare its shape")
        value.CopyFrom(known[value.name])


def _cannot(given: int, opset: int) -> str:
    if given == opset:
        return f"cannot be written in the operators of the target, of opset {opset}"
    return f"cannot be converted from opset {given} to {opset}"


def _hint(given: int, opset: int) -> str:
    return (
        "choose another --target"
        if given == opset
        else f"export it with opset_version={opset}, or for another --target"
    )


def _prepare(source: onnx.ModelProto, given: int, opset: int, label: str | None) -> None:
    """Rewrite operators that the converter misinterprets, in place."""
    for node in nodes_of(source):
        _drop_defaults(node)
    rules = {"Resize": _split_scales} if given < _RESIZE_MODES <= opset else {}
    rules |= {"Hardmax": _flatten} if given < _ONE_AXIS <= opset else {}
    if any(node.op_type in rules for node in nodes_of(source)):
        rewrite(source, Site(source, given, label), lambda at: rules.get(at.node.op_type, _keep)(at))


def _by_converter(source: onnx.ModelProto, given: int, opset: int) -> onnx.ModelProto:
    result = onnx.version_converter.convert_version(source, opset)
    if given < _RESIZE_MODES <= opset:
        _keep_resize_modes(result)
    return result


def _keep(at: Site) -> None:
    pass


def _flatten(at: Site) -> None:
    """Flatten all axes of a Hardmax from its own on into one; the converter does this only for Softmax."""
    (data,), axis = at.node.input, attribute_of(at.node, "axis", 1)
    if axis == -1:
        return
    shape = at.known_shape(0)
    rank = len(shape)
    if axis % rank == rank - 1:
        # The default of the attribute was different.
        set_attribute(at.node, "axis", axis)
        return
    back = at.emit("Shape", [data], "shape") if None in shape[1:] else at.constant([-1, *shape[1:]], "shape")
    hot = at.emit("Hardmax", [at.emit("Flatten", [data], "rows", axis=axis % rank)], "hot", axis=1)
    at.emit("Reshape", [hot, back])


def _split_scales(at: Site) -> None:
    """Enlarge and shrink a map in two steps, because newer operators round in the same way along all axes."""
    scales = at.value(at.given(1))
    if attribute_of(at.node, "mode", b"nearest") != b"nearest" or scales is None:
        return
    if (scales < 1).any() and (scales > 1).any():
        kind = onnx.TensorProto.FLOAT
        both = [at.constant(part(scales, 1), name, kind) for part, name in ((np.minimum, "less"), (np.maximum, "more"))]
        smaller = at.emit("Resize", [at.given(0), both[0]], "smaller", mode="nearest")
        at.emit("Resize", [smaller, both[1]], mode="nearest")


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Remove an attribute at its default that older operators lack and that the converter does not remove."""
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name == "noop_with_empty_axes" and not node.attribute[index].i:
            del node.attribute[index]


def _keep_resize_modes(model: onnx.ModelProto) -> None:
    """Set the attributes of Resize to its behaviour before they existed; the converter leaves the new defaults."""
    constants = {name: tensor for graph in graphs_of(model) for name, tensor in constants_of(graph).items()}
    for node in nodes_of(model):
        if node.op_type == "Resize" and node.domain in _OWN:
            written = {item.name for item in node.attribute}
            scales = constants.get(node.input[2]) if len(node.input) > 2 else None
            # In opset 10, ONNX Runtime's Resize rounds up when it shrinks a map.
            smaller = scales is not None and (onnx.numpy_helper.to_array(scales) < 1).any()
            nearest = "ceil" if smaller else "floor"
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", nearest)):
                if name not in written:
                    node.attribute.append(onnx.helper.make_attribute(name, value))


def _reason(error: Exception) -> str:
    """Return the message without the location in the source of the converter."""
    return re.sub(r"^\S+:\d+: \w+: Assertion `.*?` failed: ", "", first_line(error))
