"""Convert an ONNX model to another opset: upwards with onnx's version converter, downwards with `lowered`."""

from __future__ import annotations

import re
from collections.abc import Collection

import onnx
from google.protobuf.message import EncodeError

from irepdeploy.errors import ModelError, first_line
from irepdeploy.onnx_graph.lowering import OLDEST, lowered
from irepdeploy.onnx_graph.proto import constants_of, graphs_of, inlined, inputs_of, nodes_of, opset_of
from irepdeploy.onnx_graph.shapes import inferred_graph
from irepdeploy.onnx_graph.written import fits_one_file

__all__ = ["converted"]

# Since this IR version weights need not be inputs; the converter adds some that are not.
_FREE_WEIGHTS = 4
# Resize had no modes before, and Upsample never had.
_RESIZE_MODES = 11
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
        weightless = inputs_of(source.graph)
        if len(weightless) < len(source.graph.input):
            del source.graph.input[:]
            source.graph.input.extend(weightless)
        source.ir_version = max(source.ir_version, _FREE_WEIGHTS)
        result = source
        if opset > given or opset < OLDEST:
            result = _by_converter(source, given, opset)
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
        raise ModelError(
            f"cannot be converted from opset {given} to {opset}: {_reason(error)}", where=label, hint=_hint(opset)
        ) from error
    except ModelError as error:
        what = f"cannot be converted from opset {given} to {opset}: {error.what}"
        raise ModelError(what, where=label, hint=error.hint or _hint(opset)) from error
    return result


def _declare_outputs(model: onnx.ModelProto) -> None:
    """Give outputs without a shape that of their operators, in place: the checker wants one."""
    lacking = [value for value in model.graph.output if not value.type.tensor_type.HasField("shape")]
    known = {value.name: value for value in inferred_graph(model).output} if lacking else {}
    for value in lacking:
        value.CopyFrom(known[value.name])


def _hint(opset: int) -> str:
    return f"export it with opset_version={opset}, or for another --target"


def _by_converter(source: onnx.ModelProto, given: int, opset: int) -> onnx.ModelProto:
    for node in nodes_of(source):
        _drop_defaults(node)
    result = onnx.version_converter.convert_version(source, opset)
    if given < _RESIZE_MODES <= opset:
        _keep_resize_modes(result)
    return result


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
