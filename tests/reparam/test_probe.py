"""The probe agrees with the algebra, and finds the convolution in any class that is equivalent to one."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from irepdeploy.errors import NotFusable
from irepdeploy.reparam import algebra, probe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, possible_branches
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.probe import probe_block, probe_module
from irepdeploy.testing.strategies import randomize_block
from support.published_blocks import ACBlock, MobileOneBlock, RepVGGBlock
from support.published_borders import DiverseBranchBlock, NaiveIrepsBlock
from support.strategies import rep_blocks


def error(expected: Tensor, found: Tensor) -> float:
    assert expected.shape == found.shape
    return relative_error(expected.detach().double().numpy(), found.detach().double().numpy())


def block_of(geometry: Geometry) -> RepBlock:
    names = possible_branches(geometry, tuple(BRANCHES))
    block = RepBlock(geometry.conv(bias=False), nn.BatchNorm2d(geometry.out_channels), names)
    return randomize_block(block, 0).eval()


@torch.no_grad()
def largest_error(module: nn.Module, conv: nn.Conv2d) -> float:
    """On maps unknown to the probe."""
    generator = torch.Generator().manual_seed(7)
    reach = max((size - 1) * gap for size, gap in zip(conv.kernel_size, conv.dilation, strict=True))
    sides = [(reach + 1, reach + 2), (reach + 20, reach + 9), (reach + 5, reach + 5)]
    maps = [torch.randn(2, conv.in_channels, *side, generator=generator).to(conv.weight) for side in sides]
    return max(error(module(x), conv(x)) for x in maps)


@given(block=rep_blocks())
def test_kernel_of_any_block_is_that_of_the_algebra(block: RepBlock) -> None:
    kernel, bias = probe_block(block)
    expected_kernel, expected_bias = copy.deepcopy(block).double().equivalent()
    assert kernel.dtype == bias.dtype == torch.float64
    assert error(expected_kernel, kernel) <= 1e-10
    assert error(expected_bias, bias) <= 1e-10


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(2, 3, padding=(4, 3)),
        Geometry(2, 3, stride=(3, 2), padding=(3, 0), dilation=(1, 2)),
        Geometry(2, 2, padding=(9, 7), padding_mode="reflect"),
        Geometry(2, 2, padding=(4, 7), padding_mode="circular", kernel=5),
    ],
)
def test_padding_wider_than_the_kernel(geometry: Geometry) -> None:
    block = block_of(geometry).double()
    assert error(block.equivalent()[0], probe_block(block)[0]) <= 1e-10


def test_block_is_read_without_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_of(Geometry(4, 4, groups=2))
    expected = copy.deepcopy(block).double().equivalent()[0]

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("the probe asked for a kernel")

    for owner in {RepBlock, type(block.fixed), *map(type, block.branches.values())}:
        monkeypatch.setattr(owner, "equivalent", forbidden)
    monkeypatch.setattr(RepBlock, "branch_equivalent", forbidden)
    assert error(expected, probe_block(block)[0]) <= 1e-10
    assert error(expected, probe_module(block.double()).weight) <= 1e-10


def test_wrong_algebra_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_of(Geometry(4, 4)).double()
    true = algebra.fold_scale_shift
    monkeypatch.setattr(
        algebra, "fold_scale_shift", lambda kernel, bias, scale, shift: true(kernel, bias, 1.001 * scale, shift)
    )
    assert error(block.equivalent()[0], probe_block(block)[0]) > 1e-5


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that RepBlocks were given."""
    shapes: list[torch.Size] = []
    forward = RepBlock.forward

    def recorded(self: RepBlock, x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return forward(self, x)

    monkeypatch.setattr(RepBlock, "forward", recorded)
    return shapes


def test_depthwise_block_takes_one_map(batches: list[torch.Size]) -> None:
    probe_block(block_of(Geometry(12, 12, groups=12)))
    assert batches == [(1, 12, 3, 3)] * 2  # zero, and all channels at once


@pytest.mark.parametrize("beside", [1, 2, 3, 8])
def test_impulses_are_dealt_out_to_bounded_batches(
    beside: int, batches: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    block = block_of(Geometry(10, 4, stride=(2, 1), groups=2)).double()
    expected = block.equivalent()
    monkeypatch.setattr(probe, "_BESIDE", beside)
    probe_block(block)
    maps = -(-5 // beside)
    assert {shape[0] for shape in batches} == {1, maps}
    # The input is the larger map, and of this size one batch may hold two.
    monkeypatch.setattr(probe, "_BATCH_BYTES", 2 * 8 * batches[0].numel())
    batches.clear()
    kernel, bias = probe_block(block)
    assert {shape[0] for shape in batches} == {1, min(2, maps)}
    assert error(expected[0], kernel) <= 1e-12 and error(expected[1], bias) <= 1e-12


@st.composite
def convs(draw: st.DrawFn) -> nn.Conv2d:
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = tuple(d if k > 1 else 1 for d, k in zip(draw(pairs), kernel, strict=True))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        draw(pairs),
        draw(st.tuples(st.integers(0, 4), st.integers(0, 4))),
        dilation,
        groups,
        draw(st.booleans()),
    )
    return randomize_block(conv, draw(st.integers(0, 2**31))).eval()


SHAPE = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


def shape_of(conv: nn.Conv2d) -> dict[str, object]:
    return {name: getattr(conv, name) for name in SHAPE}


@given(conv=convs())
def test_any_convolution_is_found_again(conv: nn.Conv2d) -> None:
    found = probe_module(conv)
    assert shape_of(found) == shape_of(conv)
    assert error(conv.weight, found.weight) <= 1e-7
    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    assert error(bias, found.bias) <= 1e-6


@settings(max_examples=15)
@given(block=rep_blocks())
def test_block_as_a_module_of_an_unknown_class(block: RepBlock) -> None:
    if block.geometry.padding_mode != "zeros":
        with pytest.raises(NotFusable, match="border"):
            probe_module(block)
        return
    found = probe_module(block.double())
    geometry = block.geometry
    kernel, bias = probe_block(block)
    assert found.kernel_size == (geometry.kernel, geometry.kernel)
    assert (found.stride, found.padding, found.dilation) == (geometry.stride, geometry.padding, geometry.dilation)
    assert found.groups == geometry.groups
    assert error(kernel, found.weight) <= 1e-12 and error(bias, found.bias) <= 1e-12


class ExactChain(nn.Module):
    """1x1, BN and 3x3 without padding behind a padding of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(F.pad(x, (1, 1, 1, 1)))


class LateRegistration(nn.Module):
    """The layer that runs first is registered last."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(5, 2, 1)
        self.first = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class EverySecondPixel(nn.Module):
    """One half of a factorized reduction: what a stride of 2 leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, :, 1:, 1:])


def block_diagonal() -> nn.Module:
    """A dense convolution whose weights are those of a grouped one."""
    conv = nn.Conv2d(4, 6, 3, padding=1)
    with torch.no_grad():
        conv.weight[:3, 2:] = 0
        conv.weight[3:, :2] = 0
    return conv


def dead(kernel: int) -> nn.Module:
    """A block with constant output, as with a zero-initialized last gamma."""
    bn = nn.BatchNorm2d(4)
    nn.init.zeros_(bn.weight)
    return nn.Sequential(nn.Conv2d(3, 4, kernel, padding=1), bn)


def affine(block: nn.Module) -> nn.Module:
    """Return a published block without the activation behind it."""
    for name in ("nonlinear", "nonlinearity", "activation", "relu"):
        if hasattr(block, name):
            setattr(block, name, nn.Identity())
    return block


def random(module: nn.Module) -> nn.Module:
    return randomize_block(module, 3)


def published(block: nn.Module) -> nn.Module:
    return random(affine(block))


# Kernel, stride, padding, dilation, groups.
FOUND: dict[str, tuple[nn.Module, tuple[object, ...]]] = {
    "RepVGG": (published(RepVGGBlock(4, 4)), ((3, 3), (1, 1), (1, 1), (1, 1), 1)),
    "RepVGG of stride 2 and groups": (published(RepVGGBlock(4, 6, 2, 2)), ((3, 3), (2, 2), (1, 1), (1, 1), 2)),
    "ACB": (published(ACBlock(3, 4, stride=2)), ((3, 3), (2, 2), (1, 1), (1, 1), 1)),
    "DBB": (published(DiverseBranchBlock(3, 4)), ((3, 3), (1, 1), (1, 1), (1, 1), 1)),
    "DBB of stride 2": (published(DiverseBranchBlock(3, 4, 2)), ((3, 3), (2, 2), (1, 1), (1, 1), 1)),
    "MobileOne": (published(MobileOneBlock(5, 5, 3, groups=5)), ((3, 3), (1, 1), (1, 1), (1, 1), 5)),
    "MobileOne of stride 2": (
        published(MobileOneBlock(5, 5, 3, 2, groups=5, branches=1)),
        ((3, 3), (2, 2), (1, 1), (1, 1), 5),
    ),
    "dilation, stride, groups": (nn.Conv2d(4, 6, 3, 2, 2, 2, 2), ((3, 3), (2, 2), (2, 2), (2, 2), 2)),
    "1x5": (nn.Conv2d(3, 2, (1, 5), (1, 2), (0, 2)), ((1, 5), (1, 2), (0, 2), (1, 1), 1)),
    "dilation 18": (nn.Conv2d(2, 2, 3, 1, 18, 18), ((3, 3), (1, 1), (18, 18), (18, 18), 1)),
    "dilation 40": (nn.Conv2d(2, 2, 3, 1, 40, 40), ((3, 3), (1, 1), (40, 40), (40, 40), 1)),
    "31x31": (nn.Conv2d(2, 2, 31, 1, 0, groups=2), ((31, 31), (1, 1), (0, 0), (1, 1), 2)),
    "patches of 32": (nn.Conv2d(1, 2, 32, 32), ((32, 32), (32, 32), (0, 0), (1, 1), 1)),
    "stride 2 before dilation 16": (
        nn.Sequential(nn.Conv2d(2, 3, 1, 2, bias=False), nn.Conv2d(3, 2, 3, 1, 16, 16)),
        ((3, 3), (2, 2), (32, 32), (32, 32), 1),
    ),
    "patches of 16": (nn.Conv2d(2, 3, 16, 16), ((16, 16), (16, 16), (0, 0), (1, 1), 1)),
    "average and BN": (
        random(nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.BatchNorm2d(3))),
        ((3, 3), (2, 2), (1, 1), (1, 1), 3),
    ),
    "identity BN": (random(nn.BatchNorm2d(4)), ((1, 1), (1, 1), (0, 0), (1, 1), 4)),
    "1x1, BN, 3x3 without padding": (
        random(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))),
        ((3, 3), (1, 1), (0, 0), (1, 1), 1),
    ),
    "padded 1x1, BN, 3x3": (random(ExactChain()), ((3, 3), (1, 1), (1, 1), (1, 1), 1)),
    "two 3x3 padded once": (
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=2), nn.Conv2d(3, 2, 3)),
        ((5, 5), (1, 1), (2, 2), (1, 1), 1),
    ),
    "transposed of stride 1": (nn.ConvTranspose2d(3, 2, 3, padding=1), ((3, 3), (1, 1), (1, 1), (1, 1), 1)),
    "padded on one side": (
        nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(2, 2, 2)),
        ((3, 3), (1, 1), (1, 1), (1, 1), 1),
    ),
    "padded unevenly": (
        nn.Sequential(nn.ZeroPad2d((2, 1, 2, 1)), nn.Conv2d(2, 2, 2, dilation=2)),
        ((4, 4), (1, 1), (2, 2), (1, 1), 1),
    ),
    "registered late": (LateRegistration(), ((3, 3), (1, 1), (1, 1), (1, 1), 1)),
    "every second pixel": (EverySecondPixel(), ((2, 2), (2, 2), (0, 0), (1, 1), 1)),
    "block-diagonal": (block_diagonal(), ((3, 3), (1, 1), (1, 1), (1, 1), 2)),
    "dead": (dead(3), ((1, 1), (1, 1), (0, 0), (1, 1), 1)),
    "dead, larger map": (dead(2), ((2, 2), (1, 1), (1, 1), (1, 1), 1)),
}


@pytest.mark.parametrize("name", FOUND)
def test_foreign_module_is_one_convolution(name: str) -> None:
    module, shape = FOUND[name]
    module.eval()
    conv = probe_module(module)
    assert tuple(getattr(conv, key) for key in SHAPE[2:]) == shape
    assert largest_error(module, conv) <= 1e-5
    wide = copy.deepcopy(module).double()
    assert largest_error(wide, probe_module(wide)) <= 1e-10


def of(function: Callable[..., object]) -> Callable[[], nn.Module]:
    """A module with a convolution to 4 channels and `function` behind it."""

    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> object:
            return function(self.conv(x))

    return Behind


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return x + skip


class Coordinates(nn.Module):
    """Adds the row number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + torch.arange(x.shape[2]).to(x)[:, None]


class FixedMap(nn.Module):
    """A learned map of positions, which fits one size of input only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.positions = nn.Parameter(torch.randn(4, 15, 15))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.positions


def broken() -> nn.Module:
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = float("nan")
    return conv


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ReLU": (lambda: RepVGGBlock(3, 3), "not affine"),
    "ReLU inside": (lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)), "not affine"),
    "clip far out": (of(lambda y: y.clamp(-200, 200)), "not affine"),
    "threshold near zero": (of(lambda y: F.softshrink(y, 0.01)), "not affine"),
    "jump at 10": (of(lambda y: torch.where((y > 10) & (y < 10.2), y + 1, y)), "not affine"),
    "max pool": (of(lambda y: F.max_pool2d(y, 2)), "not affine"),
    "statistics of the batch": (lambda: nn.BatchNorm2d(3, track_running_stats=False), "not affine"),
    "naive border": (lambda: affine(NaiveIrepsBlock(3, 4)), "interior agrees .* border does not"),
    "two padded 3x3": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)),
        "interior agrees .* border does not",
    ),
    "reflected": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "interior agrees"),
    "average without the padding": (of(lambda y: F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)), "interior agrees"),
    "ceil mode": (of(lambda y: F.avg_pool2d(y, 2, 2, ceil_mode=True)), "interior agrees"),
    "row number": (Coordinates, "absolute position"),
    "flip": (of(lambda y: y.flip(3)), "absolute position"),
    "mean of the batch": (of(lambda y: y + y.mean(0, keepdim=True)), "other samples"),
    "fixed map": (FixedMap, "15"),
    "transposed map": (of(lambda y: y.transpose(2, 3)), "a convolution gives"),
    "crop": (of(lambda y: y[:, :, 2:-2, 2:-2]), "crops the map"),
    "pixel shuffle": (of(nn.PixelShuffle(2)), "enlarges"),
    "nearest": (of(lambda y: F.interpolate(y, scale_factor=2.0)), "enlarges"),
    "transposed of stride 2": (lambda: nn.ConvTranspose2d(3, 4, 2, 2), "enlarges"),
    "global average": (of(lambda y: y + y.mean((2, 3), keepdim=True)), "reaches the border"),
    "adaptive average": (of(lambda y: F.adaptive_avg_pool2d(y, 5)), "does not grow"),
    "odd sizes fail": (of(nn.PixelUnshuffle(2)), "divisible"),
    "two outputs": (of(lambda y: (y, y)), "got a tuple of 2"),
    "dict": (of(lambda y: {"y": y}), "got a dict of 1"),
    "nothing": (of(lambda y: None), "expected a map as its output, got NoneType"),
    "flattened": (of(lambda y: y.flatten(1)), "rank"),
    "multiple of 4": (of(lambda y: F.pad(y, (0, -y.shape[3] % 4, 0, -y.shape[2] % 4))), "enlarges|a convolution gives"),
    "other batch": (of(lambda y: y.repeat(2, 1, 1, 1)), "2 samples for 1"),
    "empty": (of(lambda y: y[:, :0]), "empty"),
    "cast": (of(lambda y: y.float()), "returns float32"),
    "two inputs": (TwoInputs, r"2 inputs \(x, skip\)"),
    "NaN": (broken, "NaN"),
    "linear": (lambda: nn.Linear(3, 3), "pass in_channels"),
    "1d": (lambda: nn.Conv1d(3, 3, 3), "fails on a map"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_convolution_is_refused(name: str) -> None:
    make, text = REFUSED[name]
    module = make()
    if name != "NaN":
        randomize_block(module, 5)
    with pytest.raises(NotFusable, match=text) as caught:
        probe_module(module.eval(), name="stage.block")
    assert caught.value.where == "stage.block" and caught.value.hint


def test_border_is_told_from_interior_by_two_errors() -> None:
    module = randomize_block(affine(NaiveIrepsBlock(3, 4)), 0).eval()
    with pytest.raises(NotFusable) as caught:
        probe_module(module)
    interior, border = (float(number) for number in re.findall(r"error ([\d.e+-]+)\)", caught.value.what))
    assert interior <= 1e-10 and border > 1e-3
    assert caught.value.where == "NaiveIrepsBlock"


def test_train_mode_is_refused() -> None:
    module = affine(RepVGGBlock(3, 3)).eval()
    module.rbr_1x1[1].train()
    with pytest.raises(NotFusable, match=r"train mode \(rbr_1x1\.1\)"):
        probe_module(module)
    with pytest.raises(NotFusable, match="train mode"):
        probe_block(block_of(Geometry(2, 2)).train())


class Cancels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + 1e4) - self.conv(torch.full_like(x, 1e4))


def test_rounding_in_the_own_dtype_is_proved_too() -> None:
    module = Cancels().eval()
    with pytest.raises(NotFusable, match="one convolution in float64, but in float32"):
        probe_module(module)
    assert probe_module(module.double()).kernel_size == (1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_mode_and_gradients_are_those_of_the_module(dtype: torch.dtype) -> None:
    block = randomize_block(affine(RepVGGBlock(3, 3)), 1).eval().to(dtype)
    conv = probe_module(block)
    assert conv.weight.dtype == conv.bias.dtype == dtype
    assert not conv.training
    assert conv.weight.requires_grad and conv.bias.requires_grad
    frozen = probe_module(block.requires_grad_(False))
    assert not frozen.weight.requires_grad and not frozen.bias.requires_grad
    assert not probe_module(nn.AvgPool2d(3, 1, 1).eval(), 2).weight.requires_grad


def test_nothing_else_changes() -> None:
    foreign, ours = randomize_block(affine(RepVGGBlock(3, 3)), 1).eval(), block_of(Geometry(3, 3))
    before = copy.deepcopy([foreign.state_dict(), ours.state_dict()])
    seed = torch.get_rng_state()
    probe_module(foreign)
    probe_block(ours)
    for old, new in zip(before, [foreign.state_dict(), ours.state_dict()], strict=True):
        assert all(torch.equal(value, new[key]) and value.dtype == new[key].dtype for key, value in old.items())
    assert torch.equal(seed, torch.get_rng_state())


def test_channels_are_asked_for_where_nothing_tells_them() -> None:
    pool = nn.AvgPool2d(2).eval()
    with pytest.raises(NotFusable, match="number of its input channels") as caught:
        probe_module(pool)
    assert caught.value.hint == "pass in_channels"
    conv = probe_module(pool, 3)
    assert shape_of(conv) == shape_of(nn.Conv2d(3, 3, 2, 2, groups=3))
    with pytest.raises(NotFusable, match="fails on a map of 7 channels"):
        probe_module(nn.Conv2d(3, 4, 1).eval(), 7)
