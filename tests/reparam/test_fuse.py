"""Fusing is exact, verifies itself, refuses what it cannot do, and keeps everything that is not a RepBlock."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError, CheckFailed, InputError, NotFusable
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam import algebra, branches, normalization, sample
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, Branch
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.reparam.fuse import fuse_block, prove_block
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.origin import origin_of
from irepdeploy.testing.strategies import randomize_block, small_inputs
from support.networks import blocks
from support.strategies import rep_blocks

STAGES = ((4, 4), (6, 6))


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def full_block(geometry: Geometry | None = None, seed: int = 0) -> RepBlock:
    geometry = geometry or Geometry(4, 4)
    names = [name for name in BRANCHES if BRANCHES[name].impossible(geometry) is None]
    block = RepBlock(geometry.conv(bias=False), nn.BatchNorm2d(geometry.out_channels), names)
    randomize_block(block, seed)
    return block.eval()


def ireps_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = ird.insert_branches(build("vgg6", stages=STAGES), "ireps").eval()
    return randomize_statistics(net, seed)


@given(data=st.data())
def test_any_block_is_its_convolution(data: st.DataObject) -> None:
    block = data.draw(rep_blocks())
    wide = copy.deepcopy(block).double()
    x = data.draw(small_inputs(block.geometry))
    with torch.no_grad():
        assert relative_error(array(wide(x)), array(fuse_block(wide)(x))) <= 1e-10
    _, proof = prove_block(block)
    assert proof.error_float64 <= 1e-10
    assert proof.error_own_dtype <= 1e-5


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def mutant(function: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    MUTANTS[function.__name__] = function
    return function


@mutant
def height_and_width_swapped(patch: pytest.MonkeyPatch) -> None:
    true = algebra.add_taps
    patch.setattr(
        algebra,
        "add_taps",
        lambda full, kernel, rows, columns, *rest: true(full.transpose(2, 3), kernel, rows, columns, *rest),
    )


@mutant
def wrong_eps(patch: pytest.MonkeyPatch) -> None:
    true = normalization.scale_shift

    def wrong(bn: nn.BatchNorm2d, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x is not None:
            return true(bn, x)
        return algebra.bn_scale_shift(bn.weight, bn.bias, bn.running_mean, bn.running_var, 1e-3)

    patch.setattr(sample, "scale_shift", wrong)


@mutant
def border_padding_left_out(patch: pytest.MonkeyPatch) -> None:
    def naive(self: nn.Module, x: Tensor, factor: Tensor | None = None) -> Tensor:
        g = self.geometry
        h = self.bn1(self.conv1(x))
        y = nn.functional.conv2d(h, self.conv2.weight, None, g.stride, g.padding, g.dilation, g.groups)
        return normalization.batch_norm(y, self.bn2, factor)

    patch.setattr(BRANCHES["conv1x1_3x3"], "forward", naive)


@mutant
def padding_of_the_pool_not_counted(patch: pytest.MonkeyPatch) -> None:
    true = nn.functional.avg_pool2d
    patch.setattr(branches.F, "avg_pool2d", lambda *args, count_include_pad: true(*args, count_include_pad=False))


@mutant
def factor_not_applied(patch: pytest.MonkeyPatch) -> None:
    true = Branch.add_to
    patch.setattr(Branch, "add_to", lambda self, kernel, bias, factor: true(self, kernel, bias, None))


@mutant
def beta_not_applied(patch: pytest.MonkeyPatch) -> None:
    true = RepBlock.equivalent

    def without_beta(self: RepBlock) -> tuple[Tensor, Tensor]:
        patch.setattr(RepBlock, "factor", lambda self, name: torch.sigmoid(self.alpha[name]))
        try:
            return true(self)
        finally:
            patch.setattr(RepBlock, "factor", factor)

    factor = RepBlock.factor
    patch.setattr(RepBlock, "equivalent", without_beta)


@mutant
def bias_not_scaled(patch: pytest.MonkeyPatch) -> None:
    true = Branch.add_to

    def kernel_only(self: Branch, kernel: Tensor, bias: Tensor, factor: Tensor | None) -> None:
        true(self, kernel, bias.clone(), factor)
        bias += self.equivalent_taps()[1]

    patch.setattr(Branch, "add_to", kernel_only)


@mutant
def mask_ignored(patch: pytest.MonkeyPatch) -> None:
    def everything(self: RepBlock) -> tuple[Tensor, Tensor]:
        kernel, bias = self.fixed.equivalent()
        for name in self.branches:
            more = self.branch_equivalent(name)
            kernel, bias = kernel + more[0], bias + more[1]
        return kernel, bias

    patch.setattr(RepBlock, "equivalent", everything)


@mutant
def identity_reads_the_wrong_channel(patch: pytest.MonkeyPatch) -> None:
    true = algebra.identity
    patch.setattr(algebra, "identity", lambda *args: true(*args).roll(1, 1))


@mutant
def bn_of_the_fixed_operation_forgotten(patch: pytest.MonkeyPatch) -> None:
    from irepdeploy.reparam.block import FixedOperation

    patch.setattr(FixedOperation, "equivalent", lambda self: (self.conv.weight, self.bn.bias))


@pytest.mark.parametrize("name", MUTANTS)
def test_proof_catches_the_mutant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = ireps_net()
    block = net.get_submodule("stages.0.1.conv")
    block.active = [branch for branch in block.branches if branch != "dil2x2"]
    ird.fuse(net)
    MUTANTS[name](monkeypatch)
    with pytest.raises(CheckFailed, match=r"stages.*differs in float64") as caught:
        ird.fuse(net)
    assert caught.value.exit_code == 1


def test_grouped_identity_mutant_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    block = full_block(Geometry(6, 6, groups=2))
    assert prove_block(block)[1].error_float64 <= 1e-10
    true = algebra.chain_1x1
    monkeypatch.setattr(
        algebra, "chain_1x1", lambda first, bias, second, groups: (true(first, bias, second, groups)[0].flip(0), bias)
    )
    assert prove_block(block)[1].error_float64 > 1e-3


@pytest.mark.parametrize(("name", "args"), [("vgg6", {"stages": STAGES}), ("resnet18_cifar", {"depths": (1, 1)})])
@pytest.mark.parametrize("preset", ["ireps", "repvgg", "acnet", "none"])
def test_whole_network_gives_the_same_outputs(name: str, args: dict[str, Any], preset: str) -> None:
    torch.manual_seed(1)
    net = randomize_statistics(ird.insert_branches(build(name, **args), preset).eval(), 1)
    plain = ird.fuse(net)
    assert not blocks(plain)
    shape = origin_of(net).input_shape
    verdict = ird.compare(net, plain, torch.randn(2, *shape))
    assert verdict.ok, verdict.reason
    assert verdict.worst_layer in dict(plain.named_modules())
    assert ird.compare(net.double(), plain.double(), torch.randn(2, *shape).double()).max_rel_error < 1e-5


def test_what_is_not_ours_is_kept() -> None:
    net = randomize_statistics(
        ird.insert_branches(build("resnet18_cifar", depths=(1, 1)), "ireps-resnet-cifar").eval(), 0
    )
    called = []
    net.layer1.register_forward_hook(lambda *args: called.append(1))
    net.fc.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    plain = ird.fuse(net)
    plain(torch.randn(1, 3, 32, 32))
    assert called
    assert not plain.fc.weight.requires_grad and plain.conv1.weight.requires_grad
    assert isinstance(plain.get_submodule("layer2.0.downsample.1"), nn.BatchNorm2d)
    assert plain.conv1.bias is not None and isinstance(plain.bn1, nn.Identity)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert isinstance(net.conv1, RepBlock)


def test_keep_bn_loads_strictly_into_the_unchanged_class() -> None:
    for name, args in (
        ("vgg6", {}),
        ("vgg6", {"bias": True, "stages": STAGES}),
        ("resnet18_cifar", {"depths": (1, 1)}),
    ):
        net = randomize_statistics(ird.insert_branches(build(name, **args), "acnet").eval(), 4)
        own = build(name, **args).eval()
        own.load_state_dict(ird.fuse(net, keep_bn=True).state_dict(), strict=True)
        x = torch.randn(2, *origin_of(net).input_shape)
        assert ird.compare(ird.fuse(net), own, x).max_rel_error <= 1e-6


def test_keep_bn_needs_a_bn() -> None:
    net = ird.insert_branches(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False)), "acnet").eval()
    randomize_statistics(net)
    with pytest.raises(NotFusable, match="no batch normalization moved"):
        ird.fuse(net, keep_bn=True)


def test_keep_bn_puts_the_bias_where_there_was_one() -> None:
    own = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, bias=True)).eval()
    net = ird.insert_branches(own, "acnet").eval()
    randomize_statistics(net, 1)
    own.load_state_dict(ird.fuse(net, keep_bn=True).state_dict(), strict=True)
    assert ird.compare(net, own, torch.randn(2, 2, 8, 8)).ok


def poison(name: str, value: float) -> Callable[[nn.Module], None]:
    def act(net: nn.Module) -> None:
        with torch.no_grad():
            dict([*net.named_parameters(), *net.named_buffers()])[name].view(-1)[0] = value

    return act


def without_statistics(net: nn.Module) -> None:
    bn = net.get_submodule("stages.1.0.conv.fixed.bn")
    bn.running_mean = bn.running_var = None


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda net: net.train(), "train mode"),
        (lambda net: net.get_submodule("stages.0.1.conv.branches.conv1x3").train(), "train mode"),
        (poison("head.weight", float("nan")), "not finite"),
        (poison("stages.0.0.conv.fixed.conv.weight", float("inf")), "not finite"),
        (poison("stages.0.0.conv.alpha.conv1x3", float("nan")), "not finite"),
        (poison("stages.0.0.conv.branches.conv1x3.bn.running_mean", float("nan")), "not finite"),
        (poison("stages.0.0.conv.fixed.bn.running_var", -1.0), "not positive"),
        (poison("stages.0.0.conv.fixed.bn.running_var", 0.0), "not positive"),
        (without_statistics, "without running statistics"),
    ],
)
def test_refuses(damage: Callable[[nn.Module], object], text: str) -> None:
    net = ireps_net()
    damage(net)
    with pytest.raises(NotFusable, match=text) as caught:
        ird.fuse(net)
    assert caught.value.exit_code == 2 and caught.value.where and caught.value.hint


def test_channels_last_is_kept() -> None:
    net = ireps_net().to(memory_format=torch.channels_last)
    weight = ird.fuse(net).get_submodule("stages.1.1.conv").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_block_refuses_unknown_and_impossible_branches() -> None:
    with pytest.raises(ArchitectureError, match="unknown branch 'conv5x5'"):
        RepBlock(nn.Conv2d(2, 2, 3), None, ["conv5x5"])
    with pytest.raises(ArchitectureError, match="is not possible here"):
        RepBlock(nn.Conv2d(2, 4, 3), None, ["identity"])
    with pytest.raises(ArchitectureError, match="no such branch"):
        full_block().active = ["nothing"]


def test_only_active_branches_are_computed() -> None:
    block = full_block()
    called = []
    for name, branch in block.branches.items():
        branch.register_forward_hook(lambda *args, name=name: called.append(name))
    block.active = ["conv1x1", "conv1x3"]
    block(torch.randn(1, 4, 5, 5))
    assert called == ["conv1x3", "conv1x1"]


def test_output_is_equation_6_and_7() -> None:
    block = full_block()
    x = torch.randn(2, 4, 6, 5)
    expected = block.fixed(x)
    for name in block.branches:
        expected = expected + torch.sigmoid(block.beta) * torch.sigmoid(block.alpha[name]) * block.branches[name](x)
    assert relative_error(array(expected), array(block(x))) < 1e-6


def test_branches_can_come_back_to_a_fused_network(tmp_path: Path) -> None:
    """Fuse, insert again in a part of it, train, save, load, fuse: the same outputs at every step."""
    net = ireps_net(2)
    plain = ird.fuse(net)
    x = torch.randn(4, 1, 16, 16)
    again = ird.insert_branches(plain, "repvgg", "stages.1", preserve=True)
    assert list(blocks(again)) == ["stages.1.0.conv", "stages.1.1.conv"]
    assert ird.compare(plain, again, x).ok
    optimizer = torch.optim.SGD(again.train().parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        again(x).square().mean().backward()
        optimizer.step()
    again.eval()
    assert not ird.compare(plain, again, x).ok
    ird.save(again, tmp_path / "again.pt")
    assert ird.compare(again, ird.load(tmp_path / "again.pt"), x).max_rel_error == 0
    twice = ird.fuse(again)
    assert ird.compare(again, twice, x).ok
    ird.save(twice, tmp_path / "twice.pt")
    assert ird.compare(twice, ird.load(tmp_path / "twice.pt"), x).max_rel_error == 0
    kept = ird.fuse(again, keep_bn=True)
    ird.save(kept, tmp_path / "kept.pt")
    assert ird.compare(twice, ird.load(tmp_path / "kept.pt"), x).max_rel_error == 0


@pytest.mark.parametrize("keep_bn", [True, False])
def test_a_fused_checkpoint_loads_again(keep_bn: bool, tmp_path: Path) -> None:
    for preset in ("acnet", "dyrep"):
        net = randomize_statistics(ird.insert_branches(build("vgg6", bias=True, stages=STAGES), preset).eval(), 4)
        plain = ird.fuse(net, keep_bn=keep_bn)
        ird.save(plain, tmp_path / "plain.pt")
        loaded = ird.load(tmp_path / "plain.pt")
        assert list(loaded.state_dict()) == list(plain.state_dict())
        assert ird.compare(plain, loaded, torch.randn(1, 1, 16, 16)).max_rel_error == 0
        if keep_bn:
            assert list(plain.state_dict()) == list(build("vgg6", bias=True, stages=STAGES).state_dict())


def test_a_batch_normalization_of_its_own_leaves_the_networks_outside() -> None:
    own = randomize_statistics(build("vgg6").eval(), 1)
    net = ird.insert_branches(own, "dyrep")
    block = net.get_submodule("stages.0.0.conv")
    assert block.fixed.bn is not None and block.fixed.conv.bias is not None
    assert isinstance(net.get_submodule("stages.0.0.bn"), nn.BatchNorm2d)
    with pytest.raises(NotFusable, match="no place for the bias"):
        ird.fuse(net, keep_bn=True)


def test_probe_gives_what_the_algebra_gives() -> None:
    net = ireps_net(5)
    by_probe, by_algebra = ird.fuse_probe(net), ird.fuse(net)
    for (name, a), b in zip(by_algebra.named_parameters(), by_probe.parameters(), strict=True):
        assert relative_error(array(a), array(b)) <= 1e-5, name
    wide = ireps_net(5).double()
    by_probe, by_algebra = ird.fuse_probe(wide), ird.fuse(wide)
    for (name, a), b in zip(by_algebra.named_parameters(), by_probe.parameters(), strict=True):
        assert relative_error(array(a), array(b)) <= 1e-10, name


class TwoPaths(nn.Module):
    """A foreign block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.skip = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) + self.skip(x)


def test_foreign_blocks_by_probe() -> None:
    own = nn.Sequential(nn.Conv2d(3, 6, 3, 2), TwoPaths(6), nn.ReLU(), TwoPaths(6), nn.BatchNorm2d(6)).eval()
    randomize_statistics(own, 2)
    x = torch.randn(2, 3, 15, 14)
    for where, names in ((TwoPaths, ["1", "3"]), ("3", ["3"]), (lambda name, module: name == "1", ["1"])):
        plain = ird.fuse_probe(own, where=where)
        assert [str(i) for i in (1, 3) if isinstance(plain[i], nn.Conv2d)] == names
        assert ird.compare(own, plain, x).ok and isinstance(plain[4], nn.BatchNorm2d)
    mixed = randomize_statistics(ird.insert_branches(own, "ireps", "0"), 3)
    plain = ird.fuse_probe(mixed, where=TwoPaths)
    assert not any(isinstance(module, RepBlock | TwoPaths) for module in plain.modules())
    assert ird.compare(mixed, plain, x).ok


@pytest.mark.parametrize(
    ("where", "text"),
    [("nothing", "no module chosen"), (nn.ReLU, "one convolution|not linear|affine|channels")],
)
def test_a_probe_refuses_bad_choices(where: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ird.fuse_probe(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()).eval(), where)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"method": "algebra", "keep_bn": True}, lambda net: ird.fuse(net, keep_bn=True)),
        ({"method": "probe", "where": TwoPaths}, lambda net: ird.fuse_probe(net, where=TwoPaths)),
        (
            {"method": "graph", "example": torch.zeros(1, 6, 9, 9)},
            lambda net: ird.fuse_graph(net, torch.zeros(1, 6, 9, 9)),
        ),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else "",
)
def test_the_old_keyword_still_fuses_and_names_the_new_call(
    old: dict[str, Any], new: Callable[[nn.Module], nn.Module]
) -> None:
    own = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), TwoPaths(6)).eval()
    net = randomize_statistics(ird.insert_branches(own, "repvgg", "0"), 4)
    call = {"algebra": r"\.fuse\(net\)", "probe": r"\.fuse_probe\(net, where", "graph": r"\.fuse_graph\(net, example"}
    with pytest.warns(DeprecationWarning, match=call[old["method"]]) as caught:
        by_keyword = ird.fuse(net, **old)
    assert [warning.filename for warning in caught] == [__file__]
    by_name = new(net)
    assert list(by_keyword.state_dict()) == list(by_name.state_dict())
    x = torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        assert torch.equal(by_keyword(x), by_name(x))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "guess"}, "'guess'"),
        ({"where": TwoPaths}, "ird.fuse_probe"),
        ({"method": "graph", "where": TwoPaths}, "ird.fuse_probe"),
        ({"example": torch.zeros(1, 2, 9, 9)}, "ird.fuse_graph"),
        ({"method": "graph", "keep_bn": True}, "keep_bn"),
    ],
)
def test_old_keywords_that_exclude_each_other(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        ird.fuse(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU()).eval(), **settings)
