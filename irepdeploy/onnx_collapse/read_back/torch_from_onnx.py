"""Read an ONNX graph back as a torch network, operator by operator; convolutions and linear layers become modules."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch.fx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_collapse.read_back.reader import Reader, constant_tensor, identifier, refused
from irepdeploy.onnx_collapse.read_back.torch_operators import OPERATORS, RETURN_SEVERAL

__all__ = ["inferred_shapes", "torch_from_onnx"]


def torch_from_onnx(
    model: onnx.ModelProto, twice: Mapping[str, tuple[int | None, ...]] | None = None
) -> torch.fx.GraphModule:
    """Return the network that a float32 ONNX graph describes, in eval mode.

    Args:
        model: The model. The network takes the inputs of its graph in order.
        twice: Shapes of tensors for twice the batch; sizes that differ there follow the batch. By default the first
            size of every new shape does.

    Raises:
        ModelError: An operator, or the form of one, is not supported by `torch_operators`.
    """
    reader = Reader(model, twice)
    for value in model.graph.input:
        if value.name not in reader.constants:
            reader.values[value.name] = reader.graph.placeholder(identifier(value.name))
    for node in model.graph.node:
        _read(node, reader)
    results = tuple(reader.value(value.name) for value in model.graph.output)
    reader.graph.output(results[0] if len(results) == 1 else results)
    reader.graph.lint()
    return torch.fx.GraphModule(reader.root, reader.graph, model.graph.name or "Network").eval()


def inferred_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Return the known shapes of the tensors that a graph computes."""
    reader = Reader(model)
    shapes = {name: reader.shape(name) for node in model.graph.node for name in node.output}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def _read(node: onnx.NodeProto, reader: Reader) -> None:
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "Constant":
        reader.constant(node.output[0], constant_tensor(attributes))
        return
    write = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if write is None:
        raise ModelError(
            f"operator {node.op_type} cannot be read back into torch",
            where=node.name or node.output[0],
            hint="irepdeploy.export_model collapses its ONNX",
        )
    found = write(reader, node, attributes)
    several = node.op_type in RETURN_SEVERAL
    if not several and any(node.output[1:]):
        raise refused(node, "with several outputs")
    for place, name in enumerate(node.output):
        if name:
            reader.values[name] = reader.item(found, place) if several else found
