"""Networks for tests: seeded, with random statistics, in eval mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.network.nets import build
from irepdeploy.network.nets.resnet import ResNet
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import Branches

__all__ = ["ConvBn", "blocks", "random_network", "small_resnet"]


@torch.no_grad()
def random_network(name: str = "vgg6", branches: Branches | None = None, *, seed: int = 0, **args: Any) -> nn.Module:
    """Return a network of the registry with random weights and statistics, and random alpha and beta of its branches.

    Args:
        name: Name in the registry.
        branches: Branches that replace the network's own.
        seed: Seed of all values.
        args: Arguments of the builder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(name, **args) if branches is None else build(name, branches=branches, **args)
        for module in model.modules():
            if isinstance(module, RepBlock) and module.beta is not None:
                for factor in (module.beta, *module.alpha.values()):
                    factor.normal_()
    return randomize_statistics(model, seed).eval()


def blocks(model: nn.Module) -> dict[str, RepBlock]:
    """Return the RepBlocks of a network by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RepBlock)}


def small_resnet() -> nn.Module:
    """Build the first two stages of ResNet-18 for CIFAR: strides and 1x1 shortcuts with 0.7 M parameters, not 11 M."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet(block="basic", depths=(2, 2, 0, 0), num_classes=10, stem="cifar")
        model.fc = nn.Linear(128, 10)
    return randomize_statistics(model).eval()


class ConvBn(nn.Module):
    """A network of a class that is not in the registry."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))
