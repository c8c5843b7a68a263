"""Branches can be inserted into any network; layers that cannot be expanded are left alone, with the reason."""

from __future__ import annotations

import pkgutil
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError, ModelError
from irepdeploy.network.nets import build
from irepdeploy.network.nets.resnet import BasicBlock
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import expandable
from irepdeploy.reparam.origin import origin_of
from irepdeploy.reparam.published import PUBLISHED
from support.networks import ConvBn, blocks


class Foreign(nn.Module):
    """Nested, one block used twice, a convolution read by two, one without BN, depthwise, 5x5, mirrored, asymmetric."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.shared = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.forked = nn.Conv2d(8, 8, 3, padding=1)
        self.forked_bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 8, 5, padding=2)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.asymmetric = nn.Conv2d(8, 8, (3, 5), padding=(1, 2))
        self.parts = nn.ModuleDict({"a": nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1, dilation=1)])})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.shared(torch.relu(self.shared(x)))
        y = self.forked(x)
        x = self.forked_bn(y) + y
        return self.parts["a"][0](self.asymmetric(self.mirrored(self.wide(self.depthwise(x)))))


class Untraceable(ConvBn):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) > -1e9 else x


def foreign(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomize_statistics(Foreign().eval(), seed)


def test_a_foreign_network_expands_and_fuses_back() -> None:
    net = ird.insert_branches(foreign(), "ireps")
    randomize_statistics(net, 3)
    assert list(blocks(net)) == ["stem.0", "shared.0", "forked", "depthwise", "mirrored", "parts.a.0"]
    plain = ird.fuse(net)
    verdict = ird.compare(net, plain, torch.randn(2, 3, 17, 16))
    assert verdict.ok, verdict.reason


def test_the_bn_moves_only_where_it_alone_follows() -> None:
    net = ird.insert_branches(foreign(), "ireps")
    assert blocks(net)["stem.0"].fixed.bn is not None and isinstance(net.stem[1], nn.Identity)
    assert blocks(net)["shared.0"].fixed.bn is not None and isinstance(net.shared[1], nn.Identity)
    assert blocks(net)["forked"].fixed.bn is None and isinstance(net.forked_bn, nn.BatchNorm2d)
    assert [layer.bn for layer in origin_of(net).layers] == ["stem.1", "shared.1", None, None, None, None]


def test_reasons_are_given_for_what_is_left_alone() -> None:
    reasons = expandable(foreign())
    assert [name for name, reason in reasons.items() if reason is not None] == ["asymmetric"]
    assert "3x5 is not square" in str(reasons["asymmetric"])
    assert "only beside 3x3" in str(expandable(foreign(), "ireps")["wide"])
    assert expandable(foreign(), "dbb")["wide"] is None


@pytest.mark.parametrize("model", [foreign(), build("vgg6").eval(), build("resnet18_cifar", depths=(1, 1)).eval()])
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
        ("layer1.0", ["layer1.0.conv1", "layer1.0.conv2"]),
        (BasicBlock, [f"layer{i}.conv{j}" for i in ("1.0", "1.1", "2.0", "3.0") for j in (1, 2)]),
        ("conv1", ["conv1"]),
        (lambda name, module: module.stride == (2, 2), ["layer2.0.conv1", "layer3.0.conv1"]),
    ],
)
def test_where(where: object, names: list[str]) -> None:
    net = ird.insert_branches(build("resnet18_cifar", depths=(2, 1, 1)), "acnet", where)
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
        (("nowhere",), ((1, 0),), "no such convolution"),
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


class Mixed(nn.Module):
    """Kernels of three sizes, every padding mode, 'same', depthwise with a multiplier, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.same = nn.Sequential(nn.Conv2d(8, 8, 5, padding="same", dilation=2, bias=False), nn.BatchNorm2d(8))
        self.valid = nn.Conv2d(8, 8, 3, padding="valid")
        self.mirror = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect"), nn.BatchNorm2d(8))
        self.ring = nn.Conv2d(8, 8, 3, padding=(2, 1), padding_mode="circular", groups=2)
        self.edge = nn.Conv2d(8, 8, 3, padding="same", padding_mode="replicate", groups=8)
        self.multiplied = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.ring(self.mirror(self.valid(self.same(self.stem(x)).relu())).relu())
        return self.second(self.first(self.multiplied(self.edge(x))).relu())


def mixed(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomize_statistics(Mixed().eval(), seed)


@pytest.mark.parametrize("preset", ["ireps", "repvgg", "acnet", "dbb", "dyrep", "mobileone", "mobileone-k1"])
def test_every_preset_on_every_size_and_padding(preset: str) -> None:
    own = mixed()
    net = randomize_statistics(ird.insert_branches(own, preset), 4)
    x = torch.randn(2, 3, 41, 38)
    plain = ird.fuse(net)
    verdict = ird.compare(net, plain, x)
    assert verdict.ok, verdict.reason
    assert list(blocks(net)) == [name for name, reason in expandable(own, preset).items() if reason is None]
    for name, block in blocks(net).items():
        conv = plain.get_submodule(name)
        assert conv.padding_mode == own.get_submodule(name).padding_mode and len(block.branches)
    wide = ird.compare(net.double(), ird.fuse(net), x.double())
    assert wide.max_rel_error <= 1e-10
    net = ird.insert_branches(own, preset, preserve=True)
    # A batch normalization of its own multiplies by 1 to rounding only.
    assert ird.compare(own, net, x).max_rel_error <= (1e-6 if preset == "dyrep" else 0)


def test_dbb_beside_a_depthwise_convolution_has_its_own_branches() -> None:
    net = ird.insert_branches(mixed(), "dbb")
    assert list(blocks(net)["edge"].branches) == ["idconv1x1_3x3", "avg3x3"]
    # A depthwise convolution with a multiplier has a group for each input channel only.
    assert list(blocks(net)["multiplied"].branches) == ["conv1x1", "idconv1x1_3x3", "conv1x1_avg3x3"]
    assert blocks(net)["edge"].branches["idconv1x1_3x3"].conv1.out_channels == 16
    inner = blocks(net)["first"].branches["idconv1x1_3x3"]
    assert torch.equal(inner.first_kernel()[:, :, 0, 0], torch.eye(16)) and not inner.conv1.weight.any()


def test_mobileone_stands_k_times() -> None:
    net = ird.insert_branches(mixed(), "mobileone")
    assert list(blocks(net)["edge"].branches) == ["conv3x3", "conv3x3_2", "conv3x3_3", "conv1x1", "identity"]
    with pytest.raises(ArchitectureError, match="named twice"):
        ird.insert_branches(mixed(), ["conv3x3", "conv3x3"])
    with pytest.raises(ArchitectureError, match="unknown branch 'conv3x3_1'"):
        ird.insert_branches(mixed(), ["conv3x3_1"])


def test_tied_weights_stay_tied() -> None:
    net = ird.insert_branches(mixed(), "acnet")
    assert net.first.fixed.conv.weight is net.second.fixed.conv.weight
    only_one = ird.insert_branches(mixed(), "acnet", "first")
    assert only_one.first.fixed.conv.weight is only_one.second.weight
    assert ird.compare(net, ird.fuse(net), torch.randn(1, 3, 40, 40)).ok


def test_a_convolution_alone_is_a_network() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    net = randomize_statistics(ird.insert_branches(conv, "ireps").eval())
    assert isinstance(net, RepBlock)
    assert ird.compare(net, ird.fuse(net), torch.randn(1, 4, 7, 8)).ok


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Conv2d(4, 4, 3), "weight", 0.5)


def replaced_forward() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3)
    conv.forward = lambda x: x
    return conv


@pytest.mark.parametrize(
    ("conv", "text"),
    [
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), "weight is parametrized"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), "weight is parametrized"),
        (pruned(), "weight_orig"),
        (replaced_forward(), "forward was replaced"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
        (nn.Conv1d(4, 4, 3), "Conv1d"),
        (nn.Conv2d(4, 4, 2), "2x2 is not one of"),
        (nn.Conv2d(4, 4, 9), "9x9 is not one of"),
        (nn.Conv2d(4, 4, (1, 3)), "1x3 is not square"),
    ],
)
def test_what_cannot_be_expanded_says_why(conv: nn.Module, text: str) -> None:
    reasons = expandable(nn.Sequential(conv, nn.Conv2d(4, 4, 3)))
    assert text in str(reasons["0"]) and reasons["1"] is None
    with pytest.raises(ModelError, match="none chosen") as caught:
        ird.insert_branches(nn.Sequential(conv), "acnet")
    assert text in caught.value.what
    assert callable(pkgutil.resolve_name(str(caught.value.hint).partition("(")[0]))
    with pytest.raises(ArchitectureError, match="cannot insert branches"):
        ird.insert_branches(nn.Sequential(conv), Architecture(("0",), ("conv1x1",), ((1,),)))


def test_a_network_with_branches_is_told_from_one_without_convolutions() -> None:
    net = ird.insert_branches(build("vgg6"), "acnet")
    with pytest.raises(ModelError, match="already has branches") as caught:
        ird.insert_branches(net, "acnet")
    assert "fuse" in str(caught.value.hint)
    head = ird.insert_branches(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 2, 1)), "acnet")
    with pytest.raises(ModelError, match="already has branches; 1: kernel 1x1 is not"):
        ird.insert_branches(head, "acnet")
    with pytest.raises(ArchitectureError, match="already has branches"):
        ird.insert_branches(net, origin_of(net).architecture)


def test_hooks_stay_at_their_names_in_every_state() -> None:
    called: list[str] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(2)
            self.seen: list[int] = []
            self.conv.register_forward_hook(self.look)
            self.conv.register_forward_pre_hook(lambda module, args: called.append("pre"))
            self.conv.register_forward_hook(
                lambda module, args, kwargs, out: called.append("kwargs"), with_kwargs=True, always_call=True
            )
            self.bn.register_forward_hook(lambda module, args, out: called.append("bn"))
            self.conv.register_full_backward_hook(lambda module, before, after: called.append("backward"))

        def look(self, module: nn.Module, args: object, out: Tensor) -> None:
            self.seen.append(out.numel())

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x))

    own = Watched().eval()
    net = randomize_statistics(ird.insert_branches(own, "ireps"), 1)
    plain = ird.fuse(net)
    for number, model in enumerate((net, plain)):
        called.clear()
        model(torch.randn(1, 2, 4, 4, requires_grad=True)).sum().backward()
        assert sorted(called) == ["backward", "bn", "kwargs", "pre"]
        # A hook that is a method belongs to the copy, not to the original network.
        assert model.seen == [32] and not own.seen, number
        model.seen.clear()


def test_a_tensor_of_a_past_forward_is_copied_without_its_history() -> None:
    net = build("vgg6")
    net.stages[0].kept = net(torch.zeros(2, 1, 16, 16))
    copied = ird.insert_branches(net, "ireps")
    kept = copied.stages[0].kept
    assert torch.equal(kept, net.stages[0].kept) and kept is not net.stages[0].kept and not kept.requires_grad


def test_normalized_weights_are_left_and_copied() -> None:
    """torch.nn.utils.weight_norm computes the weight anew before every forward, and keeps the last one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        odd = nn.utils.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), odd).eval()
    branched = ird.insert_branches(net, "acnet", preserve=True).eval()
    x = torch.randn(2, 3, 6, 6)
    assert torch.allclose(branched(x), net(x), atol=1e-5) and not isinstance(branched[2], RepBlock)


class Chain(nn.Module):
    """Small convolutions with the names of a ResNet's."""

    def __init__(self) -> None:
        super().__init__()
        for name in PUBLISHED["irep-resnet18"].layers:
            inside: nn.Module = self
            *folders, last = name.split(".")
            for folder in folders:
                if not hasattr(inside, folder):
                    inside.add_module(folder, nn.Module())
                inside = inside.get_submodule(folder)
            inside.add_module(last, nn.Conv2d(2, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            x = x if len(list(module.children())) else module(x)
        return x


class Detector(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, Chain())

    def forward(self, x: Tensor) -> list[Tensor]:
        return [child(x) for child in self.children()]


def test_a_published_architecture_fits_a_part_of_a_network() -> None:
    published, plain = PUBLISHED["irep-resnet18"], Detector("backbone")
    net = ird.insert_branches(plain, "irep-resnet18")
    inserted = origin_of(net).architecture
    assert inserted.layers == tuple(f"backbone.{name}" for name in published.layers)
    assert [inserted.kept(f"backbone.{name}") for name in published.layers] == [
        published.kept(name) for name in published.layers
    ]
    part = ird.insert_branches(plain, "irep-resnet18", where="backbone.layer1")
    assert len(origin_of(part).layers) == 4
    two = Detector("a", "b")
    with pytest.raises(ArchitectureError, match="several parts of the network: a, b"):
        ird.insert_branches(two, "irep-resnet18")
    chosen = ird.insert_branches(two, "irep-resnet18", where="b")
    assert len(origin_of(chosen).layers) == 16 and all(layer.name[0] == "b" for layer in origin_of(chosen).layers)
    with pytest.raises(ArchitectureError, match="no such convolution"):
        ird.insert_branches(plain, "irep-resnet34")
