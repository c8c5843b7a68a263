"""Training mode in ONNX files: BatchNormalization with batch statistics, and Dropout that drops elements."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import attribute_of, constants_of, graphs_of, nodes_of, opset_of

__all__ = ["made_inference", "training_nodes"]

# Since these opsets, the mode is an attribute or an input; before, additional outputs indicated it.
_BN_ATTRIBUTE, _DROPOUT_INPUT = 14, 12
_OWN = ("", "ai.onnx")


def training_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that are in training mode, including those of subgraphs."""
    constants = {name: tensor for graph in graphs_of(model) for name, tensor in constants_of(graph).items()}
    return [node for node in nodes_of(model) if node.domain in _OWN and _trains(node, opset_of(model), constants)]


def made_inference(model: onnx.ModelProto, label: str) -> str:
    """Convert a model to its inference form, in place.

    BatchNormalization then uses the running statistics in the file, and Dropout returns its input.

    Returns:
        A description of what was changed, or "" if nothing is in training mode.

    Raises:
        ModelError: The model uses running statistics or the mask of a Dropout, which only training computes.
    """
    nodes = training_nodes(model)
    read = {name for node in nodes_of(model) for name in node.input}
    read |= {value.name for graph in graphs_of(model) for value in graph.output}
    for node in nodes:
        if read.intersection(filter(None, node.output[1:])):
            what = "running statistics" if node.op_type == "BatchNormalization" else "mask"
            raise ModelError(
                f"{node.op_type} {node.name or node.output[0]!r} is in training mode, and its {what} are used",
                where=label,
                hint="call net.eval() and export the network again",
            )
    for node in nodes:
        del node.output[1:]
        if node.op_type == "Dropout":
            del node.input[1:]
        for index in reversed(range(len(node.attribute))):
            if node.attribute[index].name == "training_mode":
                del node.attribute[index]
    counts = Counter(node.op_type for node in nodes)
    what = " and ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{what} in training mode, converted to inference mode as by net.eval()" if nodes else ""


def _trains(node: onnx.NodeProto, opset: int, constants: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type == "BatchNormalization":
        if opset >= _BN_ATTRIBUTE:
            return bool(attribute_of(node, "training_mode", 0))
        return any(node.output[1:])
    if node.op_type != "Dropout" or opset < _DROPOUT_INPUT or len(node.input) < 3 or not node.input[2]:
        return False
    # A mode that is an input or is computed is up to the caller.
    mode = constants.get(node.input[2])
    return mode is not None and bool(onnx.numpy_helper.to_array(mode).any())
