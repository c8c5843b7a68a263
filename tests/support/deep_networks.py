"""Deep networks whose linear operators are connected from end to end, with random weights and statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from irepdeploy.network.nets.statistics import randomize_statistics
from support.published_blocks import RepConvN

__all__ = ["DEEP", "deep_network", "residual_chain"]


class _Sum(nn.Module):
    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.branches
        return functools.reduce(torch.add, [branch(x) for branch in rest], first(x))


class Mixer(nn.Module):
    """Depthwise convolutions of parts of the channels and two 1x1, each added to its input, as in RepNeXt.

    As trained, each part has `branches` parallel convolutions of decreasing size.
    """

    def __init__(self, channels: int, branches: int = 1) -> None:
        super().__init__()
        self.part = part = channels // 4
        sizes = ((3, 3), (7, 7), (1, 11))
        self.parts = nn.ModuleList(
            _Sum([_depthwise(part, (max(high - 2 * less, 1), max(wide - 2 * less, 1))) for less in range(branches)])
            for high, wide in sizes
        )
        self.norm = nn.BatchNorm2d(channels)
        self.wide, self.narrow = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        *parts, rest = x.split(self.part, 1)
        mixed = [branches(y) for branches, y in zip(self.parts, parts, strict=True)]
        x = x + self.norm(torch.cat([*mixed, rest], 1))
        return x + self.narrow(nn.functional.gelu(self.wide(x)))


class Ghost(nn.Module):
    """Half of the channels from a 1x1, the other half from depthwise convolutions of the first, as in GhostNet."""

    def __init__(self, inputs: int, outputs: int, *, act: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.primary = nn.Sequential(nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half))
        self.cheap = nn.Sequential(_depthwise(half, (3, 3)), nn.BatchNorm2d(half))
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.primary(x))
        return torch.cat([x, self.act(self.cheap(x))], 1)


class GhostBottleneck(nn.Module):
    """Two Ghost modules, the second without activation, in parallel to a linear shortcut."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.wide, self.narrow = Ghost(channels, 2 * channels, act=True), Ghost(2 * channels, channels, act=False)
        parts = (_depthwise(channels, (3, 3)), nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1))
        self.shortcut = nn.Sequential(*parts) if shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.wide(x)) + self.shortcut(x)


class RepBottleneck(nn.Module):
    """A RepConvN and a 3x3 with activations, added to their input, as in GELAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rep, self.conv = RepConvN(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.silu(self.conv(self.rep(x)))


class Csp(nn.Module):
    """Bottlenecks in parallel to a 1x1, concatenated with it."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        half = channels // 2
        self.one, self.two, self.last = (nn.Conv2d(channels, width, 1) for width in (half, half, channels))
        self.blocks = nn.Sequential(*(RepBottleneck(half) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        act = nn.functional.silu
        return act(self.last(torch.cat([self.blocks(act(self.one(x))), act(self.two(x))], 1)))


def residual_chain(blocks: int) -> nn.Module:
    """Return a chain of Mixers in their deployed form, in eval mode."""
    return _built(lambda: nn.Sequential(nn.Conv2d(3, 16, 1), *(Mixer(16) for _ in range(blocks))))


def deep_network(name: str) -> nn.Module:
    """Return one of `DEEP`, in eval mode."""
    return _built(DEEP[name])


DEEP: dict[str, Callable[[], nn.Module]] = {
    "RepNeXt": lambda: nn.Sequential(nn.Conv2d(3, 16, 1), *(Mixer(16, 3) for _ in range(23))),
    "GhostNet": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 1), *(GhostBottleneck(16, shortcut=place % 3 == 0) for place in range(54))
    ),
    "GELAN": lambda: nn.Sequential(nn.Conv2d(3, 16, 1), *(Csp(16, 3) for _ in range(21))),
}


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomize_statistics(build()).eval()


def _depthwise(channels: int, size: tuple[int, int]) -> nn.Conv2d:
    padding = (size[0] // 2, size[1] // 2)
    return nn.Conv2d(channels, channels, size, padding=padding, groups=channels, bias=False)
