"""Batch normalization after convolutions of any kernel is folded exactly; where it cannot be folded, it stays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import irepdeploy as ird
from irepdeploy.errors import ModelError, NotFusable
from irepdeploy.network.nets.statistics import randomize_statistics, settle_statistics
from irepdeploy.reparam.fold import folded
from irepdeploy.reparam.origin import FUSED, origin_of
from support.networks import blocks, random_network


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def relative_error(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    expected, found = a(x), b(x)
    # A network whose outputs do not depend on its input proves nothing.
    assert float((expected - expected.mean(0)).abs().max()) > 0.05 * float(expected.abs().max())
    return float((expected - found).abs().max() / expected.abs().max())


# Batch normalizations that stay: behind the concatenation of a factorized reduction, and skips of GOLD-NAS.
LEFT = {"resnet50": 0, "darts_cifar": 2, "amoebanet_a_cifar": 2, "goldnas_cifar": 63, "irep_resnet18_cifar": 0}
ARGS = {"resnet50": {}, "irep_resnet18_cifar": {"depths": (1, 1)}}
SHAPE = (3, 16, 16)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("amoebanet_a_cifar", "goldnas_cifar"))) for name in LEFT],
)
def test_networks_of_the_registry(name: str) -> None:
    net = settle_statistics(random_network(name, **ARGS.get(name, {"channels": 8})), SHAPE)
    before = copy.deepcopy(net.state_dict())
    plain = folded(net)
    assert norms(plain) == LEFT[name] and not blocks(plain)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert relative_error(net, plain, x) <= 3e-4
    assert relative_error(net.double(), folded(net), x.double()) <= 1e-12
    assert all(torch.equal(before[key].double(), value.double()) for key, value in net.state_dict().items())


@pytest.mark.parametrize("preset", ["dyrep", "ireps"])
def test_branches_are_fused_first(preset: str) -> None:
    net = settle_statistics(random_network("vgg6", preset), (1, 16, 16))
    plain = folded(net)
    # DyRep's blocks have a normalization of their own, and the network's stays behind them.
    assert norms(ird.fuse(net)) == (6 if preset == "dyrep" else 0)
    assert norms(plain) == 0 and not blocks(plain)
    assert relative_error(net, plain, torch.randn(3, 1, 16, 16)) < 1e-5


def test_it_says_what_it_reads_and_is_no_network_of_the_registry() -> None:
    origin = origin_of(folded(random_network("resnet18_cifar")))
    assert origin.input_shape == (3, 32, 32) and origin.output_names == ("logits",)
    assert origin.net is None and origin.state == FUSED and not origin.layers


def test_kernels_are_rounded_once() -> None:
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(3, 5, 1, bias=True), nn.BatchNorm2d(5)
    net = randomize_statistics(nn.Sequential(conv, bn)).eval()
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    plain = folded(net)
    assert torch.equal(plain[0].weight, (conv.weight.double() * scale.reshape(-1, 1, 1, 1)).float())
    shift = (conv.bias.double() - bn.running_mean.double()) * scale + bn.bias.double()
    assert torch.allclose(plain[0].bias.double(), shift, rtol=1e-7, atol=1e-8)


class Own(nn.Module):
    """A convolution and a batch normalization, used as `function` has it."""

    def __init__(self, function: Callable[[Own, Tensor], Tensor], conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, (1, 5), padding=(0, 2), groups=2, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Quantized(nn.Conv2d):
    """A class of its own, which does more than convolve, and which tracing takes for one of torch's, as those of
    quantization-aware training are."""

    __module__ = "torch.nn.of_the_test"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mul(8).round().div(8)


STAYS = {
    "the convolution is read twice": Own(lambda m, x: m.bn(y := m.conv(x)) + y),
    "something stands between": Own(lambda m, x: m.bn(torch.relu(m.conv(x)))),
    "a sum of two": Own(lambda m, x: m.bn(m.conv(x) + x)),
    "the convolution is called twice": Own(lambda m, x: m.conv(m.bn(m.conv(x)))),
    "the normalization is called twice": Own(lambda m, x: m.bn(m.bn(m.conv(x)))),
    "a class of its own": Own(lambda m, x: m.bn(m.conv(x)), Quantized(4, 4, 1)),
    "a weight that is computed": Own(lambda m, x: m.bn(m.conv(x)), weight_norm(nn.Conv2d(4, 4, 1))),
}


@pytest.mark.parametrize("kind", STAYS)
def test_what_cannot_be_folded_stays(kind: str) -> None:
    net = randomize_statistics(copy.deepcopy(STAYS[kind])).eval()
    plain = folded(net)
    assert norms(plain) == 1
    assert relative_error(net, plain, torch.randn(3, 4, 6, 6)) == 0


def test_any_kernel_is_folded() -> None:
    net = randomize_statistics(Own(lambda m, x: torch.relu(m.bn(m.conv(x))))).eval()
    plain = folded(net)
    assert norms(plain) == 0 and isinstance(plain.bn, nn.Identity)
    assert relative_error(net, plain, torch.randn(3, 4, 6, 6)) < 1e-6


def test_a_weight_that_two_convolutions_share_is_not_changed() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    net[2].weight = net[0].weight
    net = randomize_statistics(net).eval()
    plain = folded(net)
    assert norms(plain) == 1 and plain[2].weight is plain[0].weight
    assert relative_error(net, plain, torch.randn(3, 4, 6, 6)) == 0


def test_what_is_watched_stays() -> None:
    net = randomize_statistics(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))).eval()
    seen: list[Tensor] = []
    net[0].register_forward_hook(lambda module, args, out: seen.append(out))
    plain = folded(net)
    x = torch.randn(3, 4, 6, 6)
    plain(x)
    assert norms(plain) == 1 and torch.equal(seen[0], net[0](x))


def test_normalization_without_affine_and_frozen_weights() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)).requires_grad_(False)
    net = randomize_statistics(net).eval()
    plain = folded(net)
    assert norms(plain) == 0 and not plain[0].bias.requires_grad
    assert relative_error(net, plain, torch.randn(3, 4, 6, 6)) < 1e-6


def test_what_is_refused() -> None:
    net = random_network("vgg6")
    with pytest.raises(NotFusable, match="train mode"):
        folded(copy.deepcopy(net).train())
    broken = copy.deepcopy(net)
    next(module for module in broken.modules() if isinstance(module, nn.BatchNorm2d)).running_var[0] = -1
    with pytest.raises(NotFusable, match="not positive"):
        folded(broken)
    branching = Own(lambda m, x: m.bn(m.conv(x)) if x.sum() > 0 else x).eval()
    with pytest.raises(ModelError, match="Own: forward cannot be traced"):
        folded(branching)


def test_it_exports_as_the_network_does(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = random_network("vgg6")
    plain = folded(net)
    assert ird.compare(net, plain, torch.randn(3, 1, 16, 16)).ok
    with pytest.raises(ird.IrepdeployError, match="a custom class"):
        ird.load(ird.save(plain, tmp_path / "net.pt"))
