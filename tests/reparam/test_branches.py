"""Candidate operations are placed as in the paper and train as defined; the branch contract tests the rest."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.reparam.branches import BRANCHES
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalization import batch_norm
from irepdeploy.testing.strategies import randomize_block


def error(a: Tensor, b: Tensor) -> float:
    return relative_error(a.detach().double().numpy(), b.detach().double().numpy())


def chain_by_definition(branch: nn.Module, x: Tensor) -> Tensor:
    """1x1, BN, pad with the BN's image of zero under the batch's statistics, second operation, BN."""
    average = branch.name == "conv1x1_avg3x3"
    g = branch.geometry
    h = (branch.conv if average else branch.conv1)(x)
    mean, var = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
    z = branch.bn1.bias - mean * branch.bn1.weight / torch.sqrt(var + branch.bn1.eps)
    z = z.reshape(1, -1, 1, 1)
    padding = (g.padding[1], g.padding[1], g.padding[0], g.padding[0])
    padded = F.pad(branch.bn1(h) - z, padding) + z
    if average:
        return branch.bn2(F.avg_pool2d(padded, 3, g.stride))
    return branch.bn2(F.conv2d(padded, branch.conv2.weight, None, g.stride, 0, g.dilation, g.groups))


@pytest.mark.parametrize("name", ["conv1x1_3x3", "conv1x1_avg3x3"])
@pytest.mark.parametrize("geometry", [Geometry(4, 6), Geometry(4, 4, (2, 1), (1, 0)), Geometry(6, 6, groups=3)])
def test_chain_trains_as_defined(name: str, geometry: Geometry) -> None:
    """Outputs, gradients of input and weights, and running statistics are those of the padded definition."""
    ours = randomize_block(BRANCHES[name](geometry), 1).double().train()
    theirs = copy.deepcopy(ours)
    x = torch.randn(3, geometry.in_channels, 7, 6, dtype=torch.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    a, b = ours(x), chain_by_definition(theirs, twin)
    assert error(b, a) <= 1e-12
    gradient = torch.randn_like(a)
    a.backward(gradient)
    b.backward(gradient)
    assert error(twin.grad, x.grad) <= 1e-10
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert float((p.grad - q.grad).abs().max()) <= 1e-10 * (1 + float(p.grad.abs().max()))
    for p, q in zip(theirs.buffers(), ours.buffers(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=0)


def test_naive_border_is_another_function() -> None:
    """Zero padding after a middle BN, as in most tools, is not one convolution, which justifies our border."""
    branch = randomize_block(BRANCHES["conv1x1_3x3"](Geometry(4, 4)), 2).double().eval()
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    naive = branch.bn2(F.conv2d(branch.bn1(branch.conv1(x)), branch.conv2.weight, None, padding=1))
    assert error(branch(x)[..., 1:-1, 1:-1], naive[..., 1:-1, 1:-1]) <= 1e-12
    assert error(branch(x), naive) > 0.1


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_batch_norm_with_factor_keeps_torchs_statistics(momentum: float | None) -> None:
    bn = nn.BatchNorm2d(3, momentum=momentum).double()
    twin = copy.deepcopy(bn)
    for seed in range(3):
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert error(twin(x) * 2.0, batch_norm(x, bn, torch.tensor(2.0, dtype=torch.float64))) <= 1e-12
    for a, b in zip(twin.buffers(), bn.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_middle_statistics_move_as_torchs(momentum: float | None) -> None:
    branch = BRANCHES["conv1x1_3x3"](Geometry(2, 2)).double().train()
    branch.bn1.momentum = momentum
    twin = nn.BatchNorm2d(2, momentum=momentum).double()
    for seed in range(3):
        x = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        branch(x)
        twin(branch.conv1(x))
    assert torch.allclose(branch.bn1.running_mean, twin.running_mean, rtol=1e-12)
    assert torch.allclose(branch.bn1.running_var, twin.running_var, rtol=1e-12)
    assert branch.bn1.num_batches_tracked == twin.num_batches_tracked


def test_identity_only_where_it_fits() -> None:
    assert BRANCHES["identity"].impossible(Geometry(4, 4)) is None
    for geometry in (Geometry(4, 8), Geometry(4, 4, stride=(2, 2)), Geometry(4, 4, stride=(1, 2))):
        assert "identity" in str(BRANCHES["identity"].impossible(geometry))


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("conv1x3", {(1, 0), (1, 1), (1, 2)}),
        ("conv3x1", {(0, 1), (1, 1), (2, 1)}),
        ("conv1x1", {(1, 1)}),
        ("dil1x2", {(1, 0), (1, 2)}),
        ("dil2x1", {(0, 1), (2, 1)}),
        ("dil2x2", {(0, 0), (0, 2), (2, 0), (2, 2)}),
        ("identity", {(1, 1)}),
        ("conv1x1_3x3", {(r, c) for r in range(3) for c in range(3)}),
        ("conv1x1_avg3x3", {(r, c) for r in range(3) for c in range(3)}),
    ],
)
def test_taps_are_those_of_the_paper(name: str, taps: set[tuple[int, int]]) -> None:
    branch = randomize_block(BRANCHES[name](Geometry(3, 3)), 5).eval()
    kernel, _ = branch.equivalent()
    used = kernel.abs().sum((0, 1)) > 0
    assert {(r, c) for r in range(3) for c in range(3) if used[r, c]} == taps


def test_a_strided_1x1_trains_on_few_channels_in_channels_last() -> None:
    """oneDNN (torch 2.13) writes outside its memory in the backward of a strided 1x1 convolution: the process dies."""
    program = """if True:
        import torch, irepdeploy as ird
        net = ird.insert_branches(torch.nn.Conv2d(3, 8, 3, 2, 1), "repvgg").to(memory_format=torch.channels_last)
        x = torch.randn(16, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        for _ in range(40):
            net(x).square().mean().backward()
    """
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
