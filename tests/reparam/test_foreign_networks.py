"""Unusual foreign networks are handled correctly or refused; they never silently become another function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError, ModelError, NotFusable
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.insert import expandable
from support.networks import blocks


def conv(**settings: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, **settings)


def usual() -> nn.Module:
    return nn.Sequential(conv(bias=False), nn.BatchNorm2d(4), nn.ReLU(), conv())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 4, 9, 9)


class Frozen(nn.Module):
    """Keeps its batch normalization frozen, as detection backbones do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(), nn.BatchNorm2d(4)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.bn.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def test_a_frozen_normalization_stays_frozen(x: Tensor) -> None:
    for own in (Frozen().train(), nn.Sequential(Frozen()).train()):
        net = ird.insert_branches(own, "dbb").train()
        bn = next(module for name, module in net.named_modules() if name.endswith("bn") and ".branches." not in name)
        assert isinstance(bn, nn.BatchNorm2d) and not bn.training
        before = bn.running_mean.clone()
        net(x)
        assert torch.equal(bn.running_mean, before)
    by_hand = usual().train()
    by_hand[1].eval()
    net = ird.insert_branches(by_hand, "dbb")
    assert not net[1].training and net[0].fixed.bn is None


class OtherInTraining(nn.Module):
    """In train mode, the map before the normalization is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return (self.bn(y), y) if self.training else self.bn(y)


@pytest.mark.parametrize("mode", [True, False])
def test_a_normalization_moves_only_if_both_modes_agree(mode: bool, x: Tensor) -> None:
    own = randomize_statistics(OtherInTraining(), 1).train(mode)
    net = ird.insert_branches(own, "dbb", preserve=True)
    assert isinstance(net.bn, nn.BatchNorm2d)
    assert torch.equal(own.train()(x)[1], net.train()(x)[1])


class Remembers(nn.Module):
    """Writes to itself in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.count, self.seen, self.last = conv(), 0, [], None
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.steps += 1
        self.last = self.conv(x).detach()
        self.seen.append(1)
        return self.last


def test_the_network_given_is_not_run(x: Tensor) -> None:
    own = Remembers()
    own(x)
    net = ird.insert_branches(own, "dbb")
    for model in (own, net):
        assert (model.count, float(model.steps), len(model.seen)) == (1, 1.0, 1)
        assert isinstance(model.last, Tensor)


class Bound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.run = lambda x: self.conv(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class AsksForTheClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([conv(), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            if isinstance(part, nn.Conv2d):
                x = part(x)
        return x


class CopiesItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        twin = CopiesItself()
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("make", "where", "text"),
    [
        (Bound, "run", "function that holds modules"),
        (AsksForTheClass, "parts.0", "does not call"),
        (CopiesItself, "conv", "copy of the network lacks"),
        (lambda: nn.Sequential(CopiesItself(), conv()), "0.conv", "copy of the network lacks"),
        (lambda: torch.jit.script(usual()), None, "scripted"),
        (lambda: 3, None, "expected a torch.nn.Module"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_would_be_another_function_is_refused(make: Callable[[], Any], where: str | None, text: str) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        ird.insert_branches(make(), "dbb")
    assert caught.value.where == where


class ReadsItsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.to(self.first.weight.dtype)))


def test_a_convolution_whose_weight_is_read_is_left_alone(x: Tensor) -> None:
    own = ReadsItsWeight()
    assert "reads its weight" in str(expandable(own)["first"])
    net = ird.insert_branches(own, "dbb", preserve=True)
    assert list(blocks(net)) == ["second"] and torch.equal(own.eval()(x), net.eval()(x))


def test_a_block_says_what_it_lacks_and_has_the_rest() -> None:
    block = ird.insert_branches(conv(groups=2), "dbb")
    assert (block.in_channels, block.kernel_size, block.groups) == (4, (3, 3), 2)
    for name in ("weight", "bias"):
        with pytest.raises(AttributeError, match=rf"fixed.conv.{name}.*where="):
            getattr(block, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = block.nothing


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.a_bn = conv(bias=False), nn.BatchNorm2d(4)
        self.b, self.b_bn = conv(bias=False), nn.BatchNorm2d(4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b_bn(self.b(self.a_bn(self.a(x))))


def test_tied_weights_cannot_go_back_into_the_unchanged_class(x: Tensor) -> None:
    for where in ("*", "a"):
        net = randomize_statistics(ird.insert_branches(Tied(), "dbb", where).eval(), 1)
        assert ird.compare(net, ird.fuse(net), x).ok
        with pytest.raises(NotFusable, match="shares its weight"):
            ird.fuse(net, keep_bn=True)


@pytest.mark.parametrize("preset", ["ireps", "dbb", "dyrep", "mobileone"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_in_half_precision(preset: str, dtype: torch.dtype, x: Tensor) -> None:
    net = ird.insert_branches(usual().to(dtype), preset).train()
    net(x.to(dtype)).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for n, p in net.named_parameters() if ".bn1." in n)
    ird.fuse(net.eval())


@pytest.mark.parametrize("fuse", [ird.fuse, ird.fuse_probe])
def test_fusing_under_autocast(fuse: Any, x: Tensor) -> None:
    net = randomize_statistics(ird.insert_branches(usual(), "dbb").eval(), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = fuse(net)
        assert torch.is_autocast_enabled("cpu") and ird.compare(net, plain, x).max_rel_error < 1e-5


def test_branches_that_take_no_part_are_saved(tmp_path: Path, x: Tensor) -> None:
    net = randomize_statistics(ird.insert_branches(usual(), "repvgg").eval(), 3)
    net[0].active = ["identity"]
    net[3].active = []
    ird.save(net, tmp_path / "net.pt")
    loaded = ird.load(tmp_path / "net.pt", model=usual)
    assert loaded[0].active == ("identity",) and loaded[3].active == ()
    assert torch.equal(net(x), loaded(x))


def test_dtypes_are_loaded_one_by_one(tmp_path: Path) -> None:
    own = usual().half()
    own[1].float()
    for net in (ird.insert_branches(own, "dbb").eval(), own.eval()):
        ird.save(net, tmp_path / "net.pt")
        loaded = ird.load(tmp_path / "net.pt", model=usual)
        assert [v.dtype for v in loaded.state_dict().values()] == [v.dtype for v in net.state_dict().values()]


def test_a_network_given_to_load_is_not_written_over(tmp_path: Path) -> None:
    mine = usual().train()
    before = mine[0].weight.clone()
    ird.save(usual(), tmp_path / "other.pt")
    assert ird.load(tmp_path / "other.pt", model=mine) is not mine
    assert torch.equal(mine[0].weight, before) and mine.training


class Extra(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


def boom() -> nn.Module:
    raise KeyError("missing")


def test_state_and_factories_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only tensors"):
        ird.save(nn.Sequential(conv(), Extra()), tmp_path / "net.pt")
    ird.save(ird.insert_branches(usual(), "dbb"), tmp_path / "net.pt")
    with pytest.raises(ModelError, match="factory boom raised KeyError"):
        ird.load(tmp_path / "net.pt", model=boom)


class Complex(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, self.factor * x)


class GivesNone(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, None


def test_outputs_that_are_not_real(x: Tensor) -> None:
    assert not ird.compare(Complex(1).eval(), Complex(-5).eval(), x).ok
    assert ird.compare(Complex(1).eval(), Complex(1).eval(), x).ok
    assert ird.compare(GivesNone().eval(), GivesNone().eval(), x).ok


def test_where_chooses_among_the_layers_of_an_architecture() -> None:
    architecture = Architecture(("0", "3"), ("conv1x1",), ((1,), (1,)))
    assert list(blocks(ird.insert_branches(usual(), architecture))) == ["0", "3"]
    assert list(blocks(ird.insert_branches(usual(), architecture, "3"))) == ["3"]
    with pytest.raises(ModelError, match="none chosen"):
        ird.insert_branches(usual(), architecture, "nowhere")


@pytest.mark.parametrize("branches", [None, 3, [1], b"dbb"])
def test_branches_of_a_wrong_type(branches: Any) -> None:
    with pytest.raises(ArchitectureError, match="expected branches, got"):
        ird.insert_branches(usual(), branches)


@pytest.mark.parametrize("where", [None, ["0"], 3])
def test_where_of_a_wrong_type(where: Any) -> None:
    with pytest.raises(ModelError, match="where: expected a glob, a name, a type or a function"):
        ird.insert_branches(usual(), "dbb", where)


def test_a_module_of_two_names_is_chosen_by_each() -> None:
    shared = usual()
    net = nn.ModuleDict({"first": shared, "second": shared})
    for where in ("first", "second", "second.*", "second.0", nn.ModuleDict, nn.Sequential):
        assert "first.0" in blocks(ird.insert_branches(net, "dbb", where))


def test_statistics_outside_the_blocks_are_no_matter(x: Tensor) -> None:
    net = ird.insert_branches(nn.Sequential(usual(), nn.BatchNorm2d(4, track_running_stats=False)), "dbb").eval()
    assert ird.compare(net, ird.fuse(net), x).ok


def test_weights_without_values() -> None:
    with pytest.raises(NotFusable, match="meta device"):
        ird.fuse(ird.insert_branches(usual().to("meta"), "dbb").eval())


def test_an_eps_above_one(x: Tensor) -> None:
    own = nn.Sequential(conv(bias=False), nn.BatchNorm2d(4, eps=1.5))
    net = randomize_statistics(ird.insert_branches(own, "acnet").eval(), 4)
    assert ird.compare(net, ird.fuse(net, keep_bn=True), x).ok
