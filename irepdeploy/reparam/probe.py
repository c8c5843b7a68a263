"""Find the convolution that a module equals from its responses to unit impulses, without kernel algebra.

Along one axis, output o of a convolution reads its input at ``stride * o + u`` with the offsets
``u = dilation * tap - padding``. An impulse at h therefore reveals the offset u at output ``(h - u) / stride``, and one
impulse for each residue modulo the stride reveals all offsets. The response to zero is the bias, and a response minus
the bias is the kernel.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.errors import InputError, NotFusable
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.comparator import TOLERANCES, relative_error
from irepdeploy.reparam.fusable import check_fusable
from irepdeploy.reparam.fuse import fuse_with_proof
from irepdeploy.reparam.insert import Where, matches
from irepdeploy.reparam.response import Response, check_kind, significant
from irepdeploy.reparam.wrappers import unwrapped
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

__all__ = ["fuse_probe", "probe_block", "probe_module"]

# Size of a batch of impulses. A module needs about ten times as much, for unfolded windows and a map per branch.
_BATCH_BYTES = 4 << 20

# Number of impulses side by side in one map, out of each other's reach. One impulse per map would lead to products of
# small matrices, which take five times as long.
_BESIDE = 8


def fuse_probe(model: nn.Module, where: Where | None = None, *, keep_bn: bool = False, prove: bool = True) -> nn.Module:
    """Return a new network, fused by probing RepBlocks and blocks of foreign classes with unit impulses.

    Probing does not need to know how the branches combine, and is slower than `irepdeploy.fuse`.

    Args:
        model: A network in eval mode; it is not changed.
        where: Foreign blocks to replace by one convolution each, as a glob on their names, a type, or
            ``f(name, module) -> bool``. None fuses only RepBlocks.
        keep_bn: As for `irepdeploy.fuse`; it applies only to RepBlocks.
        prove: Compare each RepBlock with its convolution. Foreign blocks are always compared.

    Returns:
        The fused network, in eval mode.

    Raises:
        InputError: `where` selects no module.
        NotFusable: The network is refused by `irepdeploy.fuse` for the same reason, or a foreign block does not equal
            one zero-padded convolution.
        CheckFailed: A RepBlock and its convolution differ. The error names the worst block.
    """
    if isinstance(model, nn.Module):
        model = unwrapped(model)
        check_fusable(model, everywhere=False)
    foreign = None if where is None else _foreign(model, where)
    return fuse_with_proof(model, keep_bn=keep_bn, prove=prove, equivalent=probe_block, foreign=foreign)[0]


def _foreign(model: nn.Module, where: Where) -> dict[nn.Module, nn.Module]:
    if not isinstance(where, str | type) and not callable(where):
        raise InputError(f"expected a glob, a type or a function f(name, module), got {where!r}", where="where")
    found: dict[nn.Module, nn.Module] = {}
    done: list[str] = []
    for name, module in model.named_modules():
        if not name or isinstance(module, RepBlock) or name.startswith(tuple(done)):
            continue
        chosen = isinstance(module, where) if isinstance(where, type) else matches(model, where, name)
        if chosen:
            found[module] = probe_module(module, name=name)
            done.append(f"{name}.")
    if not found:
        raise InputError(f"no module chosen by where={where!r}", hint="a glob on names, a type, or f(name, module)")
    return found


@torch.no_grad()
@exact_arithmetic()
def probe_block(block: RepBlock) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of a block in eval mode, as `RepBlock.equivalent` does, by probing a float64 copy of it.

    Channel i of every group receives its impulse at the same time, so that one map is enough for a depthwise block.
    """
    check_kind(block, type(block).__name__)
    geometry = block.geometry
    axes = [
        _Axis(*numbers, geometry.kernel)
        for numbers in zip(geometry.stride, geometry.padding, geometry.dilation, strict=True)
    ]
    # Windows may reach into zero padding, which keeps the map small; other padding would repeat the impulse.
    zeros = geometry.padding_mode == "zeros"
    margins = [max(axis.reach - axis.padding, 0) if zeros else axis.reach for axis in axes]
    wide = copy.deepcopy(block).double()
    blank = torch.zeros(
        1,
        geometry.in_channels,
        *(max(2 * margin + axis.stride, axis.padding + 1) for margin, axis in zip(margins, axes, strict=True)),
        dtype=torch.float64,
        device=block.fixed.conv.weight.device,
    )
    return _read(wide, blank, axes, margins, geometry.groups)


@torch.no_grad()
@exact_arithmetic()
def probe_module(module: nn.Module, in_channels: int | None = None, *, name: str = "") -> nn.Conv2d:
    """Find the zero-padded convolution, with bias, that a module of any class equals in eval mode.

    The stride, the smallest kernel, the padding, the largest dilation and the largest number of groups follow from the
    responses of a float64 copy. Taps are found within 30 pixels, or within the reach of the convolutions inside the
    module. The convolution and the module are then compared on random maps, border included, in float64 to 1e-10 and in
    the module's own dtype.

    Args:
        module: The module, in eval mode; it is not changed.
        in_channels: Number of input channels. By default it is inferred from the convolutions and batch normalizations
            of `module`.
        name: Name of the module in error messages.

    Raises:
        NotFusable: The module is in train mode, or does not equal one zero-padded convolution. The error states the
            reason.
    """
    where = name or type(module).__name__
    check_kind(module, where)
    response = Response(module, where, in_channels)
    response.check_affine()
    growth = response.growth()
    axes = [
        _axis(response, *numbers, offsets)
        for numbers, offsets in zip(growth, response.offsets([stride for stride, _ in growth]), strict=True)
    ]
    # Windows stay inside the map, so that no border effect is mistaken for a part of the kernel.
    margins = [axis.reach for axis in axes]
    blank = response.zeros(1, *(2 * margin + axis.stride for margin, axis in zip(margins, axes, strict=True)))
    kernel, bias = _read(lambda x: _sized(response, x, axes), blank, axes, margins)
    wide = _conv(kernel, bias, axes)
    _prove(response, wide, axes)
    narrow = Response(module, where, response.channels, wide=False)
    conv = wide.to(narrow.dtype).train(module.training)
    _prove_rounded(narrow, conv, axes)
    return conv.requires_grad_(any(parameter.requires_grad for parameter in module.parameters()))


@dataclass(frozen=True)
class _Axis:
    """Height or width of a convolution."""

    stride: int
    padding: int
    dilation: int
    taps: int

    @property
    def reach(self) -> int:
        """Distance from the first to the last tap, in pixels."""
        return (self.taps - 1) * self.dilation

    def outputs(self, size: int) -> int:
        """Return the output size for a map of `size` pixels."""
        return (size + 2 * self.padding - self.reach - 1) // self.stride + 1

    def readings(self, margin: int) -> dict[int, tuple[list[int], list[int]]]:
        """Map each impulse position, from `margin` on, to the taps it reveals and the outputs that reveal them."""
        found: dict[int, tuple[list[int], list[int]]] = {}
        for tap in range(self.taps):
            offset = self.dilation * tap - self.padding
            place = margin + (offset - margin) % self.stride
            taps, outputs = found.setdefault(place, ([], []))
            taps.append(tap)
            outputs.append((place - offset) // self.stride)
        return found

    def interior(self, size: int) -> slice:
        """Return the outputs whose windows lie inside a map of `size` pixels."""
        first = -(-self.padding // self.stride)
        last = (size - 1 - self.reach + self.padding) // self.stride
        return slice(first, last + 1)


def _read(
    run: Callable[[Tensor], Tensor], blank: Tensor, axes: Sequence[_Axis], margins: Sequence[int], groups: int = 1
) -> tuple[Tensor, Tensor]:
    """Read kernel (C_out, C_in/groups, K_h, K_w) and bias (C_out,) of `run`; `blank` is a zero map (1, C_in, H, W)."""
    share = blank.shape[1] // groups
    beside = min(_BESIDE, share)
    steps = axes[1].reach // axes[1].stride + 1
    blank = F.pad(blank, (0, (beside - 1) * steps * axes[1].stride))
    zero = run(blank)[0]
    kernel = blank.new_zeros(zero.shape[0], share, axes[0].taps, axes[1].taps)
    count = beside * max(1, _BATCH_BYTES // (8 * max(blank.numel(), zero.numel())))
    seen = [axis.readings(margin).items() for axis, margin in zip(axes, margins, strict=True)]
    for (row, (rows, down)), (column, (columns, across)) in itertools.product(*seen):
        for first in range(0, share, count):
            channel = torch.arange(first, min(first + count, share), device=blank.device)
            sample, place = (channel - first) // beside, (channel - first) % beside * steps
            x = blank.new_zeros(int(sample[-1]) + 1, groups, share, *blank.shape[2:])
            x[sample, :, channel, row, column + place * axes[1].stride] = 1
            response = run(x.flatten(1, 2)) - zero
            for tap, output in zip(columns, across, strict=True):
                part = response[sample, :, :, output + place]  # (channels of this batch, C_out, H')
                kernel[:, first : first + len(channel), rows, tap] = part[:, :, down].transpose(0, 1)
    return kernel, zero[:, zero.shape[1] // 2, zero.shape[2] // 2].clone()


def _sized(response: Response, x: Tensor, axes: Sequence[_Axis]) -> Tensor:
    """Return the response to `x`, or raise NotFusable if its size is not that of a convolution."""
    y = response(x)
    size = [axis.outputs(side) for axis, side in zip(axes, x.shape[2:], strict=True)]
    if list(y.shape[2:]) != size:
        given, found, expected = ("x".join(map(str, sides)) for sides in (x.shape[2:], y.shape[2:], size))
        raise response.refusal(f"a map of {given} becomes {found}, a convolution gives {expected}")
    return y


def _axis(response: Response, stride: int, excess: int, offsets: set[int]) -> _Axis:
    """Return the smallest kernel with the largest dilation that covers `offsets`; `excess` is reach - 2 * padding."""
    if offsets and min(offsets) > 0 and max(offsets) < excess:
        raise response.refusal(
            f"it crops the map: the first {min(offsets)} and the last {excess - max(offsets)} pixels are never read",
            hint="torch.nn.Conv2d has no negative padding",
        )
    padding = max(0, -(excess // 2), *(max(-offset, offset - excess) for offset in offsets))
    reach = excess + 2 * padding
    dilation = math.gcd(reach, *(offset + padding for offset in offsets)) or 1
    return _Axis(stride, padding, dilation, reach // dilation + 1)


def _conv(kernel: Tensor, bias: Tensor, axes: Sequence[_Axis]) -> nn.Conv2d:
    groups = _most_groups(kernel)
    height, width = axes
    conv: nn.Conv2d = nn.utils.skip_init(
        nn.Conv2d,
        kernel.shape[1],
        kernel.shape[0],
        (height.taps, width.taps),
        stride=(height.stride, width.stride),
        padding=(height.padding, width.padding),
        dilation=(height.dilation, width.dilation),
        groups=groups,
        device=kernel.device,
        dtype=kernel.dtype,
    )
    assert conv.bias is not None
    blocks = kernel.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))
    conv.weight.copy_(torch.cat([blocks[group, :, group] for group in range(groups)]))
    conv.bias.copy_(bias)
    return conv


def _most_groups(kernel: Tensor) -> int:
    """Return the largest number of groups into which `kernel` (C_out, C_in, K_h, K_w) can be split."""
    used = significant(kernel.flatten(2), kernel.new_zeros(kernel.shape[0], 1, 1)).any(2)
    common = math.gcd(*used.shape)
    for groups in range(common, 1, -1):
        if common % groups == 0:
            blocks = used.reshape(groups, len(used) // groups, groups, -1).any(3).any(1)
            if not bool((blocks & ~torch.eye(groups, dtype=torch.bool, device=used.device)).any()):
                return groups
    return 1


def _prove(response: Response, conv: nn.Conv2d, axes: Sequence[_Axis]) -> None:
    """Raise NotFusable for a module that differs from `conv` in float64, and say whether only its border differs."""
    limit = TOLERANCES["float64"].max_rel_error
    for seed, (height, width) in enumerate(_proof_sizes(axes)):
        x = response.random(2, height, width, seed)
        expected, found = _sized(response, x, axes), conv(x)
        error = _error(expected, found)
        if error <= limit:
            continue
        inner = (..., axes[0].interior(height), axes[1].interior(width))
        interior = _error(expected[inner], found[inner])
        if interior <= limit:
            raise response.refusal(
                f"its interior agrees with one (error {interior:.1e}), but its border does not (error {error:.1e})",
                hint="it pads something other than its input, such as the map between two layers or after a batch "
                "normalization, or does not pad with zeros",
            )
        raise response.refusal(
            f"its output depends on the absolute position or on other samples (error {interior:.1e} in the interior)"
        )


def _prove_rounded(response: Response, conv: nn.Conv2d, axes: Sequence[_Axis]) -> None:
    """Raise NotFusable for a module that differs from `conv` in its own dtype, in which both round."""
    dtype = str(response.dtype).removeprefix("torch.")
    limit = TOLERANCES[f"{dtype}-block"].max_rel_error
    for seed, (height, width) in enumerate(_proof_sizes(axes)):
        x = response.random(2, height, width, seed)
        error = _error(response(x), conv(x))
        if not error <= limit:
            raise NotFusable(
                f"this is one convolution in float64, but in {dtype} the relative error is {error:.1e}",
                where=response.where,
                hint="its weights differ widely in magnitude; fuse it in float32 or float64",
            )


def _proof_sizes(axes: Sequence[_Axis]) -> list[tuple[int, int]]:
    """Return odd and even (height, width) pairs, not all square, with few and with many windows inside the map."""
    height, width = (axis.reach + axis.stride for axis in axes)
    return [(height, width + 1), (height + 3, width + 2), (height + 8, width + 13)]


def _error(expected: Tensor, found: Tensor) -> float:
    return relative_error(expected.double().cpu().numpy(), found.double().cpu().numpy())
