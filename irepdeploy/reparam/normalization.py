"""Batch normalization of branches: multiplied by a factor, or as a scale and a shift to fold into a kernel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from irepdeploy.reparam import algebra

__all__ = [
    "NORMS", "Norm", "batch_norm", "has_hooks", "moments_of_ranks", "scale_shift", "scale_shift_of",
    "uses_batch", "with_moments",
]  # fmt: skip

Norm = nn.BatchNorm2d | nn.SyncBatchNorm
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def batch_norm(x: Tensor, bn: Norm, factor: Tensor | None) -> Tensor:
    """Return ``factor * bn(x)``; the factor is applied to gamma and beta, which saves a pass over the map."""
    if factor is None:
        return bn(x)
    if type(bn) is not nn.BatchNorm2d or bn.weight is None or has_hooks(bn):
        return bn(x) * factor
    momentum = _count_batch(bn)
    return F.batch_norm(
        x,
        *_running(bn),
        bn.weight * factor,
        bn.bias * factor,
        bn.training or bn.running_mean is None,
        momentum,
        bn.eps,
    )


def scale_shift(bn: Norm, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Express `bn` as ``scale * x + shift``, where scale and shift are (C,).

    Args:
        bn: The batch normalization.
        x: A batch (N, C, H, W). In train mode its statistics are used, and the running statistics are updated as in
            torch's own forward pass; with a SyncBatchNorm they are those of the batches of all ranks. Without a batch,
            or in eval mode, the running statistics are used.
    """
    if x is None or not bn.training:
        assert bn.running_mean is not None and bn.running_var is not None
        return algebra.bn_scale_shift(bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps)
    # torch.compile does not support a function that updates buffers.
    if type(bn) is nn.BatchNorm2d and x.numel() > x.shape[1] and not torch.compiler.is_compiling():
        mean, inverse = _BatchStatistics.apply(x, *_running(bn), _count_batch(bn), bn.eps)
        scale = inverse if bn.weight is None else inverse * bn.weight
        return scale, (0 if bn.bias is None else bn.bias) - mean * scale
    return scale_shift_of(bn, *_moments(x), x.numel() / x.shape[1])


def uses_batch(bn: Norm) -> bool:
    """Return whether `bn` normalizes with batch statistics."""
    return bn.training or bn.running_mean is None


def scale_shift_of(bn: Norm, mean: Tensor, var: Tensor, values: float) -> tuple[Tensor, Tensor]:
    """Express `bn` as ``scale * x + shift``, given the mean and variance of `values` values per channel.

    The running statistics are updated, unless there are no values at all. With a SyncBatchNorm the statistics are those
    of all ranks together.
    """
    mean, var, count = moments_of_ranks(bn, mean, var, values)
    running_mean, running_var = _running(bn)
    if running_mean is not None and running_var is not None:
        momentum = _count_batch(bn)
        # A rank without values is still updated with the values of the others.
        if values or isinstance(bn, nn.SyncBatchNorm):
            with torch.no_grad():
                unbiased = var * (count / (count - 1).clamp(min=1))
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return algebra.bn_scale_shift(bn.weight, bn.bias, mean, var, bn.eps)


def moments_of_ranks(bn: Norm, mean: Tensor, var: Tensor, values: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and number of values (1,): of all ranks with a SyncBatchNorm, else of this rank."""
    count = torch.full_like(mean[:1], values)
    if isinstance(bn, nn.SyncBatchNorm) and distributed.is_available() and distributed.is_initialized():
        return _over_ranks(mean, var, count, bn.process_group)
    return mean, var, count


def with_moments(y: Tensor, mean: Tensor, var: Tensor, bn: Norm) -> Tensor:
    """Scale and shift a map (N, C, H, W) so that the batch has the given mean and variance, each (C,).

    Autograd treats scale and shift as constants, so that it saves no map for them. With a SyncBatchNorm the batch is
    that of all ranks.
    """
    # torch.compile fuses these operations itself.
    if not isinstance(bn, nn.SyncBatchNorm) and not torch.compiler.is_compiling():
        found: Tensor = _WithMoments.apply(y, mean.detach(), var.detach(), bn.eps)
        return found
    with torch.no_grad():
        own_mean, own_var, _ = moments_of_ranks(bn, *_moments(y), y.numel() / y.shape[1])
        scale = ((var + bn.eps) / (own_var + bn.eps)).sqrt()
        shift = mean - own_mean * scale
    return y * scale.to(y.dtype).reshape(1, -1, 1, 1) + shift.to(y.dtype).reshape(1, -1, 1, 1)


class _WithMoments(torch.autograd.Function):
    """Compute statistics and map in one operation; `torch.var_mean` on channels-last maps takes 14 times as long."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        wanted = (var + eps).sqrt()
        out, _, inverse = torch.native_batch_norm(y, wanted, mean, None, None, True, 0.0, eps)
        ctx.save_for_backward(wanted * inverse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        [scale] = ctx.saved_tensors
        return gradients[0] * scale.to(gradients[0].dtype).reshape(1, -1, 1, 1), None, None, None


class _BatchStatistics(torch.autograd.Function):
    """Compute mean and ``1 / sqrt(variance + eps)`` of each channel, and update the running statistics.

    On a channels-last map `torch.var_mean` takes 14 times as long as torch's batch normalization, and its gradient
    makes five passes over the map where one is enough: with n values per channel,
    ``dx = dmean / n - dinverse * inverse^3 * (x - mean) / n``.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        _, mean, inverse = torch.native_batch_norm(x, None, None, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, mean, inverse)
        return mean, inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse = ctx.saved_tensors
        of_mean, of_inverse = gradients
        count = x.numel() // x.shape[1]
        slope = of_inverse * inverse**3 / -count
        start = of_mean / count - slope * mean
        slope, start = slope.reshape(1, -1, 1, 1), start.reshape(1, -1, 1, 1)
        # Round only the result: a rounded slope would add the same error to every pixel.
        return torch.addcmul(start, x, slope).to(x.dtype), None, None, None, None


class _SumOverRanks(torch.autograd.Function):
    """Sum over all ranks, with the sum of the gradients of all ranks as its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        distributed.all_reduce(total, group=ctx.group)
        return total, None


def _over_ranks(
    mean: Tensor, var: Tensor, count: Tensor, group: distributed.ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean, variance and count over all ranks, whose batches may differ in size."""
    sums: Tensor = _SumOverRanks.apply(torch.cat([mean * count, count]), group)
    total = sums[-1:].clamp(min=1)
    whole = sums[:-1] / total
    # Taken around the common mean, so that a large mean causes no cancellation in the variance.
    squares: Tensor = _SumOverRanks.apply((var + (mean - whole).square()) * count, group)
    return whole, squares / total, total


def _count_batch(bn: Norm) -> float:
    """Increment the batch counter in train mode, and return the weight of the batch's statistics."""
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            return 1.0 / float(bn.num_batches_tracked)
    return 0.0 if bn.momentum is None else bn.momentum


def _running(bn: Norm) -> tuple[Tensor | None, Tensor | None]:
    """Return the running statistics that a pass reads or updates, as in torch if ``track_running_stats`` changes."""
    return (None, None) if bn.training and not bn.track_running_stats else (bn.running_mean, bn.running_var)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (C,) of a map (N, C, H, W), or zeros if it is empty."""
    # Computed in float32 for a half-precision map, as in torch's own kernels.
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if not x.numel():
        nothing = wide.sum((0, 2, 3))
        return nothing, nothing
    var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
    return mean, var


def has_hooks(module: nn.Module) -> bool:
    """Return whether `module` itself has hooks that run in its forward or backward pass."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
