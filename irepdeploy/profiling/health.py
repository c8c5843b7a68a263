"""Numerical health of weights: their loss of precision in fp16 and int8, before and after fusing.

The int8 figures are signal-to-quantization-noise ratios (SQNR) of the weights alone, in dB. They compare kernels, but
do not predict accuracy. For a kernel w that is rounded to the nearest value q on a symmetric grid of step
``max|w| / 127``, the ratio is ``10 log10(sum w^2 / sum (w - q)^2)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.errors import counted
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse_block
from irepdeploy.reparam.origin import FUSED, origin_of

__all__ = ["DROP_DB", "LayerHealth", "WeightHealth", "health_warnings", "kernel_health", "network_health"]

Array = np.ndarray[Any, Any]

# Two of eight bits, 6.02 dB each. Small networks trained with nine weighted branches lose 8 to 9 dB without losing
# int8 accuracy; an unweighted identity, with which RepVGG is known to fail in int8, costs 13 to 21 dB.
DROP_DB = 12.0

_FP16_MAX, _FP16_SMALLEST_NORMAL = 65504.0, 2.0**-14
_INT8_STEPS = 127
_NOTHING = 1e-30
_CACHED = 1 << 15


@dataclass(frozen=True)
class WeightHealth:
    """Figures of one kernel and bias. A ratio is None if the kernel is all zero or exact in int8.

    Attributes:
        max_weight: Largest finite ``|w|``.
        max_bias: Largest finite ``|b|``; 0 without a bias.
        not_finite: Number of weights and biases that are NaN or infinite. The other figures ignore them.
        fp16_overflow: Number of weights and biases beyond 65504, the largest fp16 number.
        fp16_lost: Share of nonzero weights below 2^-14, the smallest normal fp16 number, which become subnormal
            (fewer bits) or zero.
        int8_tensor_db: SQNR in dB with one step for the whole kernel.
        int8_channel_db: SQNR of the whole kernel in dB with one step per output channel.
        int8_worst_channel_db: Lowest SQNR in dB of any nonzero output channel with one step for the whole kernel. If
            the ranges of channels differ widely, small channels are lost, which `int8_tensor_db` hardly shows.
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
    """Health of a layer before and after fusing.

    Attributes:
        layer: Name of the layer.
        branches: Branches that were fused into the layer.
        before: Health of the fixed operation alone with its batch normalization folded, as in a plain network. None if
            only the fused kernel is known.
        after: Health of the fused kernel.
    """

    layer: str
    branches: tuple[str, ...]
    before: WeightHealth | None
    after: WeightHealth

    @property
    def int8_drop_db(self) -> float | None:
        """Loss caused by fusing, in dB: that of `int8_tensor_db` or of `int8_channel_db`, whichever is larger."""
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
        """Return a JSON object that `from_dict` reads."""
        return {**asdict(self), "branches": list(self.branches)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LayerHealth:
        """Read the result of `to_dict`; raise TypeError or KeyError for anything else."""
        before = value["before"]
        return cls(
            value["layer"],
            tuple(value["branches"]),
            None if before is None else WeightHealth(**before),
            WeightHealth(**value["after"]),
        )


def kernel_health(kernel: Tensor | Array, bias: Tensor | Array | None = None) -> WeightHealth:
    """Return the health of a kernel (C_out, ...) and a bias (C_out,) of any floating dtype."""
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
    """Return the health of every layer that is fused or can be fused.

    For a network with RepBlocks this is the health before and after fusing. For a fused network it is only the health
    after fusing; if its origin is unknown, every Conv2d is included, without its batch normalization.

    Args:
        model: The network.
        fused: The fused form of `model`, if it already exists.
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
    """Describe problems with at most one line per kind of problem, which names the worst layer."""
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
    # Without branches, the fixed operation equals the fused kernel.
    before = kernel_health(*block.fixed.equivalent()) if block.active else after
    return LayerHealth(name, block.active, before, after)


class _Ratios(NamedTuple):
    tensor: float | None
    channel: float | None
    worst_channel: float | None


def _measured(rows: Array, peaks: Array) -> tuple[float, _Ratios]:
    """Return the share of values lost in fp16, and the int8 ratios; the largest of `peaks` must not be 0."""
    peak = peaks.max()
    # Values are in steps of the grid, relative to the whole kernel, so that no relevant square over- or underflows.
    relative = peaks.astype(np.float64) / float(peak)
    own = np.divide(_INT8_STEPS, relative, out=np.zeros_like(relative), where=relative > _NOTHING)
    factors = own.astype(rows.dtype)[:, None]
    nonzero = normal = 0
    signals, noises, own_noises = [], [], []
    # numpy on parts that fit into the cache is ten times faster than torch on whole kernels.
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
    # If the signal of a channel underflows, int8 retains nothing of it.
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
    """Return `values` with NaN and infinity replaced by 0, and the number of replaced values."""
    good = np.isfinite(values)
    count = values.size - int(np.count_nonzero(good))
    return (np.where(good, values, 0), count) if count else (values, 0)


def _others(layers: Sequence[LayerHealth]) -> str:
    return f" (and {counted(len(layers) - 1, 'more layer')})" if len(layers) > 1 else ""
