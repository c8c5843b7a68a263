"""Operators that overwrite positions: ScatterElements and ScatterND with constants.

torch's assignment to a slice (``x[:, :, :1, :] = value``, with which DBB writes its border) is exported to ONNX as one
of these operators. If the overwritten positions do not depend on a source, only the bias changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import Form, as_map, settle
from irepdeploy.onnx_collapse.graph import Array, Operator
from irepdeploy.onnx_collapse.operators.rule import Attributes, OperatorRule
from irepdeploy.onnx_collapse.refusal import Refusal

__all__ = ["ScatterElements", "ScatterND"]


class _Scatter(OperatorRule):
    linear = True
    moves = True
    positional = True
    border_reason = "writes a border that is not what a bias would be there"

    def indices(self, operator: Operator, indices: Array) -> tuple[Array, ...]:
        """Return the numpy index of the overwritten elements."""
        raise NotImplementedError

    def check(self, operator: Operator, forms: Mapping[str, Form], context: Context) -> None:
        """Check only for constants, since the region determines which positions depend on a source."""
        if not all(context.graph.is_constant(name) for name in operator.inputs[1:] if name not in forms and name):
            raise Refusal("it is computed at run time")

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        (form,) = forms
        if operator.attributes.get("reduction", b"none") != b"none":
            raise Refusal("it does not overwrite")
        shape = context.graph.shape(operator.inputs[0])
        if form.dynamic or shape is None or None in shape:
            raise Refusal("it overwrites positions while sizes or batch are dynamic", [])
        if [shape[form.layout.index(axis)] for axis in (1, 2, 3)] != [form.channels, *form.size]:
            raise Refusal("the shape of what it overwrites is not known", [])
        indices, updates = context.array(operator, 1), context.array(operator, 2)
        if indices is None or updates is None:
            raise Refusal("its indices are not known")
        whole = tuple(size for size in shape if size is not None)
        place, order = self.indices(operator, indices), np.argsort(form.layout)
        written = np.zeros(whole, bool)
        written[place] = True
        written = written.transpose(order)
        several = len(written) > 1
        if several or form.bias is not None:
            values = np.zeros(whole, np.float64)
            values[place] = updates
            values = values.transpose(order)
        if several and not ((written == written[:1]).all() and (values == values[:1]).all()):
            raise Refusal("it treats samples of a batch differently")
        if _seen(form, *np.nonzero(written[0].any(0))):
            raise Refusal("it overwrites positions that depend on the input")
        if form.bias is not None:
            bias = torch.where(torch.from_numpy(written[0]), torch.from_numpy(values[0]), as_map(form.bias, form.size))
            form = settle(replace(form, bias=bias))
        return {operator.outputs[0]: form}


class ScatterElements(_Scatter):
    """Elements overwritten along one axis."""

    def indices(self, operator: Operator, indices: Array) -> tuple[Array, ...]:
        grid: list[Array] = list(np.indices(indices.shape, sparse=True))
        grid[operator.attributes.get("axis", 0) % 4] = indices
        return tuple(grid)

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        x, indices, updates = inputs
        axis = attributes.get("axis", 0)
        return x.scatter(axis, torch.where(indices < 0, indices + x.shape[axis], indices), updates)


class ScatterND(_Scatter):
    """Elements or slices overwritten at their indices."""

    def indices(self, operator: Operator, indices: Array) -> tuple[Array, ...]:
        return tuple(np.moveaxis(indices, -1, 0))

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        found = inputs[0].clone()
        found[tuple(inputs[1].unbind(-1))] = inputs[2]
        return found

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        if attributes.get("reduction", b"none") != b"none":
            raise NotImplementedError
        data = inputs[0].copy()
        data[tuple(np.moveaxis(inputs[1], -1, 0))] = inputs[2]
        return data


def _seen(form: Form, rows: Array, columns: Array) -> bool:
    """Return whether some term reads its source at one of these positions."""
    for name, term in form.terms.items():
        seen = []
        for axis, places, size in zip(term.taps, (rows, columns), form.sizes[name], strict=True):
            at = places[:, None] * axis.stride + np.asarray(axis.offsets)
            seen.append(((at >= 0) & (at < size)).any(1))
        if bool((seen[0] & seen[1]).any()):
            return True
    return False
