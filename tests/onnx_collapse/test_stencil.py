"""Stencils against torch's own convolutions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irepdeploy.onnx_collapse.form import convolve
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.stencil import Axis, Stencil, add, chain, identity, select, stack, support_of, trim

TIGHT = 1e-12


def conv(channels: int, out: int, kernel: tuple[int, int], *, groups: int = 1, stride: int = 1, pad: int = 0,
         dilation: int = 1, seed: int = 0) -> Stencil:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, channels // groups, *kernel, generator=generator, dtype=torch.float64)
    axes = [
        Axis(tuple(tap * dilation - pad for tap in range(taps)), stride, 2 * pad - (taps - 1) * dilation - 1)
        for taps in kernel
    ]
    return Stencil(channels, out, groups, axes[0], axes[1], np.ones(kernel, bool), weight)


def dense(stencil: Stencil, x: Tensor) -> Tensor:
    """Tap by tap, by the definition, zero outside x."""
    assert stencil.kernel is not None
    kernel = stencil.regroup(1).kernel
    assert kernel is not None
    height, width = stencil.size((x.shape[2], x.shape[3]))
    found = x.new_zeros(len(x), stencil.channels_out, height, width)
    reach = 64
    x = F.pad(x, [reach] * 4)
    for a, row in enumerate(stencil.rows.offsets):
        for b, column in enumerate(stencil.columns.offsets):
            rows = torch.arange(height) * stencil.rows.stride + row + reach
            columns = torch.arange(width) * stencil.columns.stride + column + reach
            found += torch.einsum("oc,nchw->nohw", kernel[:, :, a, b], x[:, :, rows[:, None], columns])
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_chain_is_one_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [int(rng.choice([1, 2, 4])) for _ in range(2)]
    sizes = [(int(rng.integers(1, 4)), int(rng.integers(1, 4))) for _ in range(2)]
    strides = [int(rng.integers(1, 3)) for _ in range(2)]
    first = conv(8, 8, sizes[0], groups=int(rng.choice([groups[0], 8])), stride=strides[0], pad=1, seed=seed)
    second = conv(8, 4 if groups[1] < 8 else 8, sizes[1], groups=groups[1], stride=strides[1], seed=seed + 1,
                  dilation=int(rng.integers(1, 3)))  # fmt: skip
    x = torch.randn(1, 8, 17, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    both = chain(first, second)
    assert both.groups == np.gcd(first.groups, second.groups)
    torch.testing.assert_close(dense(both, x), dense(second, dense(first, x)), rtol=TIGHT, atol=TIGHT)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolve_is_torch(groups: int, stride: int) -> None:
    stencil = conv(8, 8, (3, 2), groups=groups, stride=stride, pad=2, dilation=2)
    x = torch.randn(2, 8, 11, 12, dtype=torch.float64)
    expected = F.conv2d(x, stencil.kernel, None, stride, 2, 2, groups)
    torch.testing.assert_close(convolve(stencil, x), expected, rtol=TIGHT, atol=TIGHT)
    torch.testing.assert_close(dense(stencil, x), expected, rtol=TIGHT, atol=TIGHT)


def test_a_depthwise_stencil_stays_depthwise() -> None:
    wide = conv(1024, 1024, (31, 31), groups=1024, pad=15)
    scale = conv(1024, 1024, (1, 1), groups=1024)
    assert chain(wide, scale).groups == chain(scale, wide).groups == add(wide, scale).groups == 1024


def test_a_kernel_that_would_fill_the_memory_is_refused() -> None:
    wide, point = conv(1024, 1024, (31, 31), groups=1024, pad=15), conv(1024, 1024, (1, 1))
    with pytest.raises(Refusal, match="dense"):
        add(wide, point)


def test_no_network_has_a_kernel_this_wide() -> None:
    long = conv(1, 1, (1, 200))
    with pytest.raises(Refusal, match="399 taps"):
        chain(long, long)


def test_a_sum_of_what_lies_apart() -> None:
    one, other = conv(4, 4, (3, 3), pad=1), conv(4, 4, (1, 1), groups=2, seed=1)
    x = torch.randn(1, 4, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(dense(add(one, other), x), dense(one, x) + dense(other, x), rtol=TIGHT, atol=TIGHT)


def test_regrouping_keeps_the_numbers() -> None:
    stencil = conv(8, 16, (3, 3), groups=4, pad=1)
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    for groups in (2, 1):
        other = stencil.regroup(groups)
        assert other.kernel is not None and other.kernel.shape == (16, 8 // groups, 3, 3)
        expected = F.conv2d(x, stencil.kernel, padding=1, groups=4)
        torch.testing.assert_close(
            F.conv2d(x, other.kernel, padding=1, groups=groups), expected, rtol=TIGHT, atol=TIGHT
        )


def test_groups_that_do_not_divide_each_other() -> None:
    first, second = conv(12, 12, (3, 3), groups=4, pad=1), conv(12, 12, (1, 1), groups=6, seed=1)
    x = torch.randn(1, 12, 5, 6, dtype=torch.float64)
    both = chain(first, second)
    assert both.groups == 2
    torch.testing.assert_close(dense(both, x), dense(second, dense(first, x)), rtol=TIGHT, atol=TIGHT)


def test_stacked_and_selected() -> None:
    parts = [conv(4, 3, (3, 3), pad=1), conv(4, 4, (1, 1), groups=4, seed=1)]
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    both = stack(parts)
    expected = torch.cat([dense(part, x) for part in parts], 1)
    torch.testing.assert_close(dense(both, x), expected, rtol=TIGHT, atol=TIGHT)
    torch.testing.assert_close(dense(select(both, [5, 1]), x), expected[:, [5, 1]], rtol=TIGHT, atol=TIGHT)


def test_trimming_takes_zero_taps_only() -> None:
    stencil = conv(2, 2, (5, 5), pad=2)
    assert stencil.kernel is not None
    stencil.kernel[:, :, [0, 4]] = 0
    stencil.kernel[:, :, :, 3] = 0
    found = trim(stencil)
    assert found.rows.offsets == (-1, 0, 1) and found.columns.offsets == (-2, -1, 0, 2)
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(dense(found, x), dense(stencil, x), rtol=TIGHT, atol=TIGHT)
    stencil.kernel[:] = 0
    assert trim(stencil).support.shape == (1, 1)


@pytest.mark.parametrize("zeros", [[], [(0, 0, 1, 1)], [(slice(None), slice(None), 0, 2), (0, 0, 2, 0)]])
def test_taps_that_some_pair_of_channels_has(zeros: list[tuple[int | slice, ...]]) -> None:
    kernel = conv(3, 2, (3, 4)).kernel
    assert kernel is not None
    for place in zeros:
        kernel[place] = 0
    expected = np.ones((3, 4), bool)
    expected[0, 2] = (slice(None), slice(None), 0, 2) not in zeros
    assert (support_of(kernel) == expected).all()


def test_structure_without_numbers_is_the_same_structure() -> None:
    first, second = conv(4, 4, (3, 3), pad=1), conv(4, 8, (1, 3), groups=2, stride=2)
    hollow = [Stencil(s.channels_in, s.channels_out, s.groups, s.rows, s.columns, s.support) for s in (first, second)]
    full, empty = chain(first, second), chain(*hollow)
    assert (full.rows, full.columns, full.groups) == (empty.rows, empty.columns, empty.groups)
    assert empty.kernel is None and (full.support == empty.support).all()


def test_the_identity_changes_nothing() -> None:
    point, stencil = identity(4, numeric=True), conv(4, 4, (3, 3))
    assert chain(point, stencil) is stencil and chain(stencil, point) is stencil


@pytest.mark.parametrize("size", range(5, 12))
@pytest.mark.parametrize(("one", "two"), [((3, 2, 1), (3, 2, 1)), ((2, 2, 0), (5, 3, 2)), ((1, 3, 0), (2, 1, 1))])
def test_sizes_nest(size: int, one: tuple[int, int, int], two: tuple[int, int, int]) -> None:
    """Kernel, stride and padding of two convolutions: the excess of both is right for every size."""
    axes = [Axis(tuple(range(-pad, taps - pad)), stride, 2 * pad - taps) for taps, stride, pad in (one, two)]
    stride, excess = axes[1].behind(axes[0])
    assert Axis((0,), stride, excess).outputs(size) == axes[1].outputs(axes[0].outputs(size))
