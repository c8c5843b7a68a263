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

# Since this IR version weights need not be inputs; the converter adds some that are not.
_FREE_WEIGHTS = 4
# Resize had no modes before, and Upsample never had.
_RESIZE_MODES = 11
# Before, Hardmax went over all axes from its own on, and since over this one.
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
    """Return a copy of a model in another opset, in the operators and forms that a target takes; see `lowered`.

    Whether it still computes the same is for the caller to check: the converter is wrong for some operators.

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
    # The converter raises RuntimeError, also for what its own checks find, and ConvertError for names it does not know.
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
    """Give outputs without a shape that of their operators, in place: the checker wants one."""
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
    """Write what the converter takes for something else in another way, in place."""
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
    """Let a Hardmax go over all axes from its own on, in one axis; the converter knows that of Softmax alone."""
    (data,), axis = at.node.input, attribute_of(at.node, "axis", 1)
    if axis == -1:
        return
    shape = at.known_shape(0)
    rank = len(shape)
    if axis % rank == rank - 1:
        # It had another default.
        set_attribute(at.node, "axis", axis)
        return
    back = at.emit("Shape", [data], "shape") if None in shape[1:] else at.constant([-1, *shape[1:]], "shape")
    hot = at.emit("Hardmax", [at.emit("Flatten", [data], "rows", axis=axis % rank)], "hot", axis=1)
    at.emit("Reshape", [hot, back])


def _split_scales(at: Site) -> None:
    """Make a map larger and smaller in two steps: newer operators round the same way along all axes."""
    scales = at.value(at.given(1))
    if attribute_of(at.node, "mode", b"nearest") != b"nearest" or scales is None:
        return
    if (scales < 1).any() and (scales > 1).any():
        kind = onnx.TensorProto.FLOAT
        both = [at.constant(part(scales, 1), name, kind) for part, name in ((np.minimum, "less"), (np.maximum, "more"))]
        smaller = at.emit("Resize", [at.given(0), both[0]], "smaller", mode="nearest")
        at.emit("Resize", [smaller, both[1]], mode="nearest")


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Remove an attribute at its default, which older operators do not have and the converter leaves in place."""
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name == "noop_with_empty_axes" and not node.attribute[index].i:
            del node.attribute[index]


def _keep_resize_modes(model: onnx.ModelProto) -> None:
    """Write out what Resize and Upsample did before they had these attributes; the converter leaves the defaults."""
    constants = {name: tensor for graph in graphs_of(model) for name, tensor in constants_of(graph).items()}
    for node in nodes_of(model):
        if node.op_type == "Resize" and node.domain in _OWN:
            written = {item.name for item in node.attribute}
            scales = constants.get(node.input[2]) if len(node.input) > 2 else None
            # ONNX Runtime's Resize of opset 10 rounds up where it makes a map smaller.
            smaller = scales is not None and (onnx.numpy_helper.to_array(scales) < 1).any()
            nearest = "ceil" if smaller else "floor"
            for name, value in (("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", nearest)):
                if name not in written:
                    node.attribute.append(onnx.helper.make_attribute(name, value))


def _reason(error: Exception) -> str:
    """Return the message without the place in the converter's source."""
    return re.sub(r"^\S+:\d+: \w+: Assertion `.*?` failed: ", "", first_line(error))
