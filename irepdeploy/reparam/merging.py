"""The merged step: in train mode a block computes one convolution, whose kernel is the sum of all branches.

The contribution of a branch depends only on the statistics of its normalizations. With running statistics the step is
exact; batch statistics are estimated from a `Sample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from irepdeploy.reparam import algebra

__all__ = ["Term", "merge"]


class Term(NamedTuple):
    """Contribution of one operation to the kernel and bias of a block.

    Attributes:
        kernel: Kernel of the map before the last normalization, (C_out, C_in/groups, taps, taps), where equal rows or
            columns may be given as one.
        bias: Bias of that map (C_out,), or None.
        scale: Scale of the last normalization (C_out,).
        shift: Shift of the last normalization (C_out,).
        rows: Rows of the KxK kernel to which `kernel` is added.
        columns: Columns of the KxK kernel to which `kernel` is added.
    """

    kernel: Tensor
    bias: Tensor | None
    scale: Tensor
    shift: Tensor
    rows: slice
    columns: slice


def merge(terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
    """Return kernel (C_out, C_in/groups, K, K) and bias (C_out,) of the sum; the first term must have all taps."""
    bias = sum((term.shift if term.bias is None else term.bias * term.scale + term.shift) for term in terms)
    assert isinstance(bias, Tensor)
    if not torch.compiler.is_compiling():
        slices = [(term.rows, term.columns) for term in terms]
        tensors = [tensor for term in terms for tensor in (term.kernel, term.scale)]
        return _Sum.apply(slices, *tensors), bias
    # torch.compile fuses these operations itself.
    kernel = terms[0].kernel * terms[0].scale.reshape(-1, 1, 1, 1)
    for term in terms[1:]:
        algebra.add_taps(kernel, term.kernel, term.rows, term.columns, term.scale.reshape(-1, 1, 1, 1))
    return kernel, bias


class _Sum(torch.autograd.Function):
    """Sum of ``scale * kernel`` in one pass over each kernel; autograd would copy the whole sum for each kernel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slices: list[tuple[slice, slice]], *tensors: Tensor) -> Tensor:
        kernels, scales = tensors[::2], tensors[1::2]
        out = kernels[0] * scales[0].reshape(-1, 1, 1, 1)
        for (rows, columns), kernel, scale in list(zip(slices, kernels, scales, strict=True))[1:]:
            algebra.add_taps(out, kernel.to(out.dtype), rows, columns, scale.to(out.dtype).reshape(-1, 1, 1, 1))
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.slices = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor) -> Tensor:
        kernels, scales = ctx.saved_tensors[::2], ctx.saved_tensors[1::2]
        found = []
        for sides, kernel, scale, *of in zip(ctx.slices, kernels, scales, tangents[::2], tangents[1::2], strict=True):
            moved = of[0] * scale.reshape(-1, 1, 1, 1) + kernel * of[1].reshape(-1, 1, 1, 1)
            # Each needs its own tensor: vmap cannot add a batched tensor in place to an unbatched one.
            found.append(moved.new_zeros(kernels[0].shape))
            algebra.add_taps(found[-1], moved, *sides)
        return torch.stack(found).sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found: list[Tensor | None] = [None]
        for (rows, columns), kernel, scale in zip(ctx.slices, tensors[::2], tensors[1::2], strict=True):
            taps = gradients[0][:, :, rows, columns]
            repeated = [axis for axis in (2, 3) if kernel.shape[axis] < taps.shape[axis]]
            if repeated:
                taps = taps.sum(repeated, keepdim=True)
            found.append((taps * scale.reshape(-1, 1, 1, 1)).to(kernel.dtype))
            found.append((taps * kernel).sum((1, 2, 3)).to(scale.dtype))
        return tuple(found)
