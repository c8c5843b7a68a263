"""Branches can be inserted into anybody's network; what cannot be expanded is left alone and says why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.arch import Architecture
from irepdeploy.errors import ArchitectureError, ModelError
from irepdeploy.nets import NETS, build
from irepdeploy.nets.statistics import randomize_statistics
from irepdeploy.origin import origin_of
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import expandable


class Foreign(nn.Module):
    """Nested, one block used twice, a convolution read by two, one without BN, a depthwise one, an untouched 5x5."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.shared = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.forked = nn.Conv2d(8, 8, 3, padding=1)
        self.forked_bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 8, 5, padding=2)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.parts = nn.ModuleDict({"a": nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1, dilation=1)])})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.shared(torch.relu(self.shared(x)))
        y = self.forked(x)
        x = self.forked_bn(y) + y
        return self.parts["a"][0](self.mirrored(self.wide(self.depthwise(x))))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) if float(x.sum()) > -1e9 else x


def foreign(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomize_statistics(Foreign().eval(), seed)


def blocks(model: nn.Module) -> dict[str, RepBlock]:
    return {name: module for name, module in model.named_modules() if isinstance(module, RepBlock)}


def test_a_foreign_network_expands_and_fuses_back() -> None:
    net = ird.insert_branches(foreign(), "ireps")
    randomize_statistics(net, 3)
    assert list(blocks(net)) == ["stem.0", "shared.0", "forked", "depthwise", "parts.a.0"]
    plain = ird.fuse(net)
    verdict = ird.compare(net, plain, torch.randn(2, 3, 17, 16))
    assert verdict.ok, verdict.reason


def test_the_bn_moves_only_where_it_alone_follows() -> None:
    net = ird.insert_branches(foreign(), "ireps")
    assert blocks(net)["stem.0"].fixed.bn is not None and isinstance(net.stem[1], nn.Identity)
    assert blocks(net)["shared.0"].fixed.bn is not None and isinstance(net.shared[1], nn.Identity)
    assert blocks(net)["forked"].fixed.bn is None and isinstance(net.forked_bn, nn.BatchNorm2d)
    assert [layer.bn for layer in origin_of(net).layers] == ["stem.1", "shared.1", None, None, None]


def test_reasons_are_given_for_what_is_left_alone() -> None:
    reasons = expandable(foreign())
    assert "5x5" in str(reasons["wide"]) and "reflect" in str(reasons["mirrored"])
    assert reasons["depthwise"] is None


@pytest.mark.parametrize("model", [foreign(), build("vgg6").eval(), build("resnet18_cifar").eval()])
def test_preserve_keeps_the_outputs(model: nn.Module) -> None:
    randomize_statistics(model, 5)
    shape = origin_of(model).input_shape or (3, 12, 13)
    x = torch.randn(2, *shape)
    net = ird.insert_branches(model, "ireps", preserve=True)
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
    net.train()(x).sum().backward()
    gammas = [p for name, p in net.named_parameters() if ".branches." in name and name.endswith("bn.weight")]
    assert gammas and all(float(p.grad.abs().sum()) > 0 for p in gammas)


def test_not_preserving_changes_the_outputs() -> None:
    model = foreign()
    x = torch.randn(2, 3, 12, 12)
    assert not ird.compare(model, ird.insert_branches(model, "ireps"), x).ok


def test_an_untraceable_network_keeps_its_bn_outside_and_stays_exact() -> None:
    net = ird.insert_branches(Untraceable().eval(), "ireps")
    randomize_statistics(net, 1)
    assert isinstance(net.bn, nn.BatchNorm2d) and net.conv.fixed.bn is None
    assert ird.compare(net, ird.fuse(net), torch.randn(2, 3, 8, 8)).ok


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("layer1.*", ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"]),
        ("conv1", ["conv1"]),
        (lambda name, module: module.stride == (2, 2), ["layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"]),
    ],
)
def test_where(where: object, names: list[str]) -> None:
    net = ird.insert_branches(build("resnet18_cifar"), "acnet", where)
    assert list(blocks(net)) == names


def test_where_by_type() -> None:
    class Special(nn.Conv2d):
        pass

    net = nn.Sequential(nn.Conv2d(2, 2, 3), Special(2, 2, 3))
    assert list(blocks(ird.insert_branches(net, "acnet", nn.Conv2d))) == ["0"]
    assert "not a plain torch.nn.Conv2d" in str(expandable(net)["1"])


def test_nothing_to_do_is_an_error_that_says_so() -> None:
    with pytest.raises(ModelError, match="none chosen by where='nothing'"):
        ird.insert_branches(build("vgg6"), "ireps", "nothing")


def test_inserting_twice_adds_up() -> None:
    net = ird.insert_branches(build("vgg6"), "acnet", "stages.0.*")
    net = ird.insert_branches(net, "repvgg", "stages.1.*")
    randomize_statistics(net.eval(), 2)
    assert len(blocks(net)) == 4 and len(origin_of(net).layers) == 4
    assert ird.compare(net, ird.fuse(net), torch.randn(2, 1, 16, 16)).ok


def test_by_architecture() -> None:
    arch = Architecture(("stages.0.0.conv", "stages.2.1.conv"), ("conv1x3", "identity"), ((1, 0), (1, 1)))
    net = ird.insert_branches(build("vgg6"), arch)
    assert {name: list(block.branches) for name, block in blocks(net).items()} == {
        "stages.0.0.conv": ["conv1x3"],
        "stages.2.1.conv": ["conv1x3", "identity"],
    }
    assert origin_of(net).architecture == arch


@pytest.mark.parametrize(
    ("layers", "matrix", "text"),
    [
        (("nowhere",), ((1, 0),), "no such layer"),
        (("stages.0.0.conv",), ((0, 1),), "identity"),
    ],
)
def test_an_architecture_of_another_network(
    layers: tuple[str, ...], matrix: tuple[tuple[int, ...], ...], text: str
) -> None:
    with pytest.raises(ArchitectureError, match=text) as caught:
        ird.insert_branches(build("vgg6"), Architecture(layers, ("conv1x3", "identity"), matrix))
    assert caught.value.where == layers[0]


@pytest.mark.parametrize("branches", ["irep", ["conv1x3", "conv9x9"]])
def test_unknown_names(branches: str | list[str]) -> None:
    with pytest.raises(ArchitectureError, match=r"irep|conv9x9"):
        ird.insert_branches(build("vgg6"), branches)


def test_the_model_given_is_not_changed() -> None:
    model = foreign()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = ird.insert_branches(model, "ireps")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not blocks(model)


def test_dtype_and_mode_are_kept() -> None:
    net = ird.insert_branches(foreign().double(), "ireps")
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float64}
    assert not any(module.training for module in net.modules())
    assert all(module.training for module in ird.insert_branches(build("vgg6"), "ireps").modules())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("vgg16", 14_728_266),
        ("resnet18_cifar", 11_173_962),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, params: int) -> None:
    assert sum(parameter.numel() for parameter in build(name).parameters()) == params


def test_unknown_network_suggests_the_near_one() -> None:
    with pytest.raises(ModelError, match="did you mean resnet18"):
        build("resnet81")
    with pytest.raises(ModelError, match="cannot build"):
        build("vgg6", width=3)
    with pytest.raises(ModelError, match="cannot build"):
        build("vgg6", input_shape=(16, 16))


@pytest.mark.parametrize("name", NETS)
def test_other_classes_and_channels(name: str) -> None:
    net = build(name, num_classes=7, input_shape=(2, 32, 32)).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 2, 32, 32)).shape == (1, 7)
