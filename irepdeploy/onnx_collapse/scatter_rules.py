"""Rules of operators that overwrite positions: ScatterND and ScatterElements with constants, Transpose around them.

Slice assignment in torch (``x[:, :, :1, :] = value``, as DBB writes its border) becomes these in ONNX. What is
overwritten must not depend on a source; then only the bias changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import Form, settle
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.refusal import Refusal

__all__ = ["scatter", "transpose"]

Array = np.ndarray[Any, Any]


def transpose(operator: Operator, form: Form, context: Context) -> Form:
    """Remember the order of the axes."""
    order = operator.attributes.get("perm") or [3, 2, 1, 0]
    return replace(form, layout=tuple(form.layout[axis] for axis in order))


def scatter(operator: Operator, form: Form, context: Context) -> Form:
    """Overwrite the bias where the source is not seen.

    Raises:
        Refusal: sizes are free; a source is seen at an overwritten position; it adds instead of overwriting.
    """
    if operator.attributes.get("reduction", b"none") != b"none":
        raise Refusal("it does not overwrite")
    shape = context.graph.shape(operator.inputs[0])
    if form.free or shape is None or None in shape:
        raise Refusal("it overwrites positions while sizes or batch are free", [])
    if [shape[form.layout.index(axis)] for axis in (1, 2, 3)] != [form.channels, *form.size]:
        raise Refusal("the shape of what it overwrites is not known", [])
    written, values = _written(operator, tuple(size for size in shape if size is not None), context)
    order = np.argsort(form.layout)
    written, values = written.transpose(order), values.transpose(order)
    if not (written == written[:1]).all() or not (values == values[:1]).all():
        raise Refusal("it treats samples of a batch differently")
    rows, columns = np.nonzero(written[0].any(0))
    for name, term in form.terms.items():
        seen = []
        for axis, places, size in zip(term.taps(), (rows, columns), form.sizes[name], strict=True):
            at = places[:, None] * axis.stride + np.asarray(axis.offsets)
            seen.append((at >= 0) & (at < size))
        if bool((seen[0].any(1) & seen[1].any(1)).any()):
            raise Refusal("it overwrites positions that depend on the input")
    if form.bias is None:
        return form
    bias = form.bias if form.bias.ndim == 3 else form.bias[:, None, None].expand(-1, *form.size)
    found = torch.where(torch.from_numpy(written[0]), torch.from_numpy(values[0]), bias)
    return settle(replace(form, bias=found))


def _written(operator: Operator, shape: tuple[int, ...], context: Context) -> tuple[Array, Array]:
    """Which elements are overwritten, and by what; both of the tensor's own shape."""
    indices, updates = context.array(operator, 1), context.array(operator, 2)
    if indices is None or updates is None:
        raise Refusal("its indices are not known")
    written, values = np.zeros(shape, bool), np.zeros(shape, np.float64)
    if operator.kind == "ScatterND":
        place: tuple[Array, ...] = tuple(np.moveaxis(indices, -1, 0))
    else:
        axis = operator.attributes.get("axis", 0) % 4
        grid: list[Array] = list(np.indices(indices.shape, sparse=True))
        grid[axis] = indices
        place = tuple(grid)
    written[place] = True
    values[place] = updates
    return written, values
