"""Convert an ONNX model to another opset with onnx's version converter."""

from __future__ import annotations

import re

import onnx
import onnx.inliner
from google.protobuf.message import EncodeError

from irepdeploy.errors import ModelError, first_line
from irepdeploy.onnx_graph.proto import constants_of, graphs_of, inputs_of, nodes_of, opset_of

__all__ = ["converted"]

# Since this IR version weights need not be inputs; the converter adds some that are not.
_FREE_WEIGHTS = 4
# Resize had no modes before, and Upsample never had.
_RESIZE_MODES = 11
_OWN = ("", "ai.onnx")


def converted(model: onnx.ModelProto, opset: int, label: str | None = None) -> onnx.ModelProto:
    """Return a copy of a model in another opset.

    Whether it still computes the same is for the caller to check: the converter is wrong for some operators.

    Raises:
        ModelError: The converter cannot convert an operator.
    """
    given = opset_of(model)
    try:
        source = onnx.ModelProto()
        source.CopyFrom(onnx.inliner.inline_local_functions(model) if model.functions else model)
        weightless = inputs_of(source.graph)
        if len(weightless) < len(source.graph.input):
            del source.graph.input[:]
            source.graph.input.extend(weightless)
        source.ir_version = max(source.ir_version, _FREE_WEIGHTS)
        for node in nodes_of(source):
            _drop_defaults(node)
        result = onnx.version_converter.convert_version(source, opset)
        if given < _RESIZE_MODES <= opset:
            _keep_resize_modes(result)
        onnx.checker.check_model(result)
    # The converter raises RuntimeError, also for what its own checks find.
    except (RuntimeError, ValueError, EncodeError, onnx.checker.ValidationError) as error:
        hint = f"export it with opset_version={opset}, or for another --target"
        raise ModelError(
            f"onnx.version_converter cannot convert it from opset {given} to {opset}: {_reason(error)}",
            where=label,
            hint=hint,
        ) from error
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
