"""Run the operators of a region in float64, for which ONNX Runtime has no convolution.

Every operator follows the ONNX specification (`OperatorRule.evaluate`) and shares no code with the propagation of
forms, so that the interpreter can serve as a proof of the latter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from irepdeploy.errors import ModelError
from irepdeploy.onnx_collapse.graph import Array, kind_of
from irepdeploy.onnx_collapse.operators import rule_of

__all__ = ["evaluate"]

Constants = Callable[[str], Array | None]


@torch.no_grad()
def evaluate(
    nodes: Iterable[onnx.NodeProto], feeds: Mapping[str, Tensor], results: Sequence[str], constants: Constants
) -> dict[str, Tensor]:
    """Run linear nodes in order on float64 maps (N, C, H, W).

    Args:
        nodes: The nodes.
        feeds: Maps by name.
        results: Names of the tensors to return.
        constants: Function that returns any other tensor by name, with floats in float64.

    Raises:
        ModelError: A node is not linear, or reads a tensor that is neither a map nor constant.
    """
    nodes = list(nodes)
    pending = Counter(name for node in nodes for name in node.input)
    pending.update(results)
    values = {name: value for name, value in feeds.items() if name in pending}
    for node in nodes:
        rule = rule_of(kind_of(node))
        if not rule.linear:
            raise ModelError(f"{node.op_type} is not an operator of a region", where=node.name)
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        inputs = [values[name] if name in values else _tensor(constants(name)) if name else None for name in node.input]
        found = rule.evaluate(inputs, {**attributes, "outputs": len(node.output)})
        parts = found if isinstance(found, tuple) else (found,)
        values.update((name, part) for name, part in zip(node.output, parts, strict=False) if name in pending)
        for name in node.input:
            pending[name] -= 1
            if not pending[name]:
                values.pop(name, None)
    return {name: values[name] for name in results}


def _tensor(array: Array | None) -> Tensor:
    if array is None:
        raise ModelError("an operator of a region reads a tensor that is not constant")
    return torch.from_numpy(np.array(array, copy=True) if not array.flags.writeable else np.ascontiguousarray(array))
