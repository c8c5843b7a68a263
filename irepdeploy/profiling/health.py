"""Numerical health of weights: how they sit in fp16 and in int8, before a fuse and after it.

The int8 figures are signal-to-quantisation-noise ratios of the weights alone, in dB: they compare kernels, and say
nothing about accuracy. For a kernel w on a symmetric grid of step ``max|w| / 127``, rounded to nearest to q, the ratio
is ``10 log10(sum w^2 / sum (w - q)^2)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse_block
from irepdeploy.reparam.origin import FUSED, origin_of

__all__ = ["DROP_DB", "LayerHealth", "WeightHealth", "health_warnings", "kernel_health", "network_health"]

Array = np.ndarray[Any, Any]

# Two bits of the eight, 6.02 dB each. Small networks trained with nine weighed branches lose 8 to 9 dB, and their
# accuracy in int8 does not show it; an unweighed identity, with which RepVGG is known to fail in int8, costs 13 to 21.
DROP_DB = 12.0

_FP16_MAX, _FP16_SMALLEST_NORMAL = 65504.0, 2.0**-14
_INT8_STEPS = 127
_NOTHING = 1e-30
_CACHED = 1 << 15


@dataclass(frozen=True)
class WeightHealth:
    """Figures of one kernel and bias; a ratio is None where the kernel is all zero or int8 holds it exactly.

    Args:
        max_weight: largest finite ``|w|``.
        max_bias: largest finite ``|b|``; 0 where there is none.
        not_finite: how many weights and biases are NaN or infinite; they count in nothing else.
        fp16_overflow: how many weights and biases are beyond fp16's largest number, 65504.
        fp16_lost: share of the weights that are not zero but below fp16's smallest normal number, 2^-14: fp16 holds
            them as subnormal numbers, with fewer bits, or as zero.
        int8_tensor_db: with one step for the whole kernel.
        int8_channel_db: with a step for each output channel, over the whole kernel.
        int8_worst_channel_db: the least of any output channel that is not zero, with one step for the whole kernel.
            Where channels differ much in range, the small ones are lost and `int8_tensor_db` hardly shows it.
    """

    max_weight: float
    max_bias: float
    not_finite: int
    fp16_overflow: int
    fp16_lost: float
    int8_tensor_db: float | None
    int8_channel_db: float | None
    int8_worst_channel_db: float | None


@dataclass(frozen=True)
class LayerHealth:
    """A layer before and after its fuse.

    Args:
        branches: those that were fused into it.
        before: the fixed operation alone with its batch normalisation folded, which is what a plain network would
            hold; None where only the fused kernel is known.
        after: the fused kernel.
    """

    layer: str
    branches: tuple[str, ...]
    before: WeightHealth | None
    after: WeightHealth

    @property
    def int8_drop_db(self) -> float | None:
        """By how much the fuse lowers the ratio with one step a kernel or a channel, whichever it lowers more."""
        if self.before is None:
            return None
        pairs = (
            (self.before.int8_tensor_db, self.after.int8_tensor_db),
            (self.before.int8_channel_db, self.after.int8_channel_db),
        )
        return max(
            (before - after for before, after in pairs if before is not None and after is not None), default=None
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads."""
        return {**asdict(self), "branches": list(self.branches)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LayerHealth:
        """What `to_dict` was made of; TypeError or KeyError where `value` is something else."""
        before = value["before"]
        return cls(
            value["layer"],
            tuple(value["branches"]),
            None if before is None else WeightHealth(**before),
            WeightHealth(**value["after"]),
        )


def kernel_health(kernel: Tensor | Array, bias: Tensor | Array | None = None) -> WeightHealth:
    """The health of a kernel (C_out, ...) and a bias (C_out,), of any floating dtype."""
    wide = _wide(kernel)
    rows, not_finite = _finite(wide.reshape(len(wide), -1))
    rest, not_finite_bias = _finite(np.zeros(1) if bias is None else _wide(bias))
    peaks = np.abs(rows).max(1)
    peak, peak_bias = float(peaks.max()), float(np.abs(rest).max())
    overflow = 0
    if max(peak, peak_bias) > _FP16_MAX:
        overflow = sum(int(np.count_nonzero(np.abs(values) > _FP16_MAX)) for values in (rows, rest))
    lost, ratios = _measured(rows, peaks) if peak > 0 else (0.0, _Ratios(None, None, None))
    return WeightHealth(peak, peak_bias, not_finite + not_finite_bias, overflow, lost, *ratios)


def network_health(model: nn.Module, fused: nn.Module | None = None) -> list[LayerHealth]:
    """The health of every layer that a fuse makes or made.

    Args:
        model: a network with RepBlocks: each of them before and after. Or a fused one: only after; of a network that
            does not say what was fused, every Conv2d as it is, a batch normalisation behind it not folded.
        fused: what `model` was fused into, where it is there already; its kernels are then not computed again.
    """
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, RepBlock)}
    if blocks:
        return [_block_health(name, block, fused) for name, block in blocks.items()]
    origin = origin_of(model)
    inserted = {layer.name: layer.branches for layer in origin.layers} if origin.state == FUSED else {}
    return [
        LayerHealth(name, inserted.get(name, ()), None, kernel_health(module.weight, module.bias))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and (not inserted or name in inserted)
    ]


def health_warnings(layers: Sequence[LayerHealth]) -> list[str]:
    """What is wrong, in words: at most one line of each kind, which names the worst layer."""
    found = []
    for count, text in (
        (lambda health: health.not_finite, "values are NaN or infinite"),
        (lambda health: health.fp16_overflow, "values overflow fp16 (beyond 65504): do not run these layers in fp16"),
    ):
        hit = [layer for layer in layers if count(layer.after)]
        if hit:
            worst = max(hit, key=lambda layer: count(layer.after))
            found.append(f"{worst.layer}: {count(worst.after)} {text}{_others(hit)}")
    drops = [(layer.int8_drop_db or 0.0, layer) for layer in layers]
    hit = [layer for drop, layer in drops if drop > DROP_DB]
    if hit:
        drop, worst = max(drops, key=lambda pair: pair[0])
        found.append(
            f"{worst.layer}: the fuse lowers the int8 SQNR of the weights by {drop:.1f} dB{_others(hit)}; "
            f"more than {DROP_DB:.0f} dB (2 bits of 8): measure the accuracy before you deploy in int8"
        )
    return found


@torch.no_grad()
def _block_health(name: str, block: RepBlock, fused: nn.Module | None) -> LayerHealth:
    known = None if fused is None else fused.get_submodule(name)
    conv = known if isinstance(known, nn.Conv2d) else fuse_block(block)
    after = kernel_health(conv.weight, conv.bias)
    # Without branches the fixed operation is all there is.
    before = kernel_health(*block.fixed.equivalent()) if block.active else after
    return LayerHealth(name, block.active, before, after)


class _Ratios(NamedTuple):
    tensor: float | None
    channel: float | None
    worst_channel: float | None


def _measured(rows: Array, peaks: Array) -> tuple[float, _Ratios]:
    """Share of values that fp16 loses, and the int8 ratios; the largest of `peaks` is not 0."""
    peak = peaks.max()
    # Everything in steps of its grid, relative to the whole kernel: no square over- or underflows where it counts.
    relative = peaks.astype(np.float64) / float(peak)
    own = np.divide(_INT8_STEPS, relative, out=np.zeros_like(relative), where=relative > _NOTHING)
    factors = own.astype(rows.dtype)[:, None]
    nonzero = normal = 0
    signals, noises, own_noises = [], [], []
    # By numpy, in parts that stay in the cache: ten times faster than torch on whole kernels.
    height = max(1, _CACHED // rows.shape[1])
    for start in range(0, len(rows), height):
        part = rows[start : start + height]
        steps = np.abs(part)
        nonzero += int(np.count_nonzero(steps > 0))
        normal += int(np.count_nonzero(steps >= _FP16_SMALLEST_NORMAL))
        unit = part / peak
        np.multiply(unit, _INT8_STEPS, out=steps)
        signals.append(_energy(steps))
        noises.append(_energy(steps - np.rint(steps)))
        np.multiply(unit, factors[start : start + height], out=steps)
        own_noises.append(_energy(steps - np.rint(steps)))
    signal, noise, own_noise = map(np.concatenate, (signals, noises, own_noises))
    total = float(signal.sum())
    # Where a channel's signal underflows, int8 holds nothing of it.
    live = peaks > 0
    worst = [
        _decibels(s, n) if s > 0 else 0.0 for s, n in zip(signal[live].tolist(), noise[live].tolist(), strict=True)
    ]
    ratios = _Ratios(
        _decibels(total, float(noise.sum())),
        _decibels(total, float((own_noise * relative**2).sum())),
        min((ratio for ratio in worst if ratio is not None), default=None),
    )
    return (nonzero - normal) / nonzero, ratios


def _energy(rows: Array) -> Array:
    return np.einsum("ij,ij->i", rows, rows).astype(np.float64)


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _wide(values: Tensor | Array) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values if values.dtype == torch.float64 else values.float()).numpy()
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _finite(values: Array) -> tuple[Array, int]:
    """`values` with 0 in the place of what is NaN or infinite, and how many those were."""
    good = np.isfinite(values)
    count = values.size - int(np.count_nonzero(good))
    return (np.where(good, values, 0), count) if count else (values, 0)


def _others(layers: Sequence[LayerHealth]) -> str:
    return f" (and {len(layers) - 1} more layers)" if len(layers) > 1 else ""
