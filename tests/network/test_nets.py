"""The registry: published parameter counts, with and without branches, other sizes, and the published Architectures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError, ModelError
from irepdeploy.network.nets import NETS, build, build_plain
from irepdeploy.network.nets.cells import CellNetwork
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.reparam.origin import FUSED, origin_of
from irepdeploy.reparam.published import COLUMNS, PUBLISHED
from irepdeploy.reparam.structure import rebuild
from support.networks import blocks, random_network

# Parameters and MACs.
PLAIN = {
    "vgg16": (14_728_266, 313_201_664),
    "vgg16_acnet": (14_986_698, 313_463_808),
    "resnet18_cifar": (11_173_962, 555_422_720),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
}

# Parameters fused and with branches; what the RepVGG paper prints for the fused network: millions of parameters, cut
# off and not rounded, and billions of MACs.
REPVGG = {
    "repvgg_a0": (8_309_384, 9_108_968, 8.30, 1.4),
    "repvgg_a1": (12_789_864, 14_092_264, 12.78, 2.4),
    "repvgg_a2": (25_499_944, 28_210_600, 25.49, 5.1),
    "repvgg_b0": (14_339_048, 15_817_960, 14.33, 3.1),
    "repvgg_b1": (51_829_480, 57_415_016, 51.82, 11.8),
    "repvgg_b1g2": (41_360_104, 45_782_376, 41.36, 8.8),
    "repvgg_b1g4": (36_125_416, 39_966_056, 36.12, 7.3),
    "repvgg_b2": (80_315_112, 89_022_376, 80.31, 18.4),
    "repvgg_b2g4": (55_777_512, 61_758_376, 55.77, 11.3),
    "repvgg_b3": (110_960_872, 123_085_288, 110.96, 26.2),
    "repvgg_b3g4": (75_626_728, 83_825_128, 75.62, 16.1),
}

# One of each width, and the one with the most groups; the others at night.
BY_DAY = ("repvgg_a0", "repvgg_b0", "repvgg_b1g4")
VGG16 = (64, 64, 128, 128, *(256,) * 3, *(512,) * 6)

# Parameters in training, of the peers' own code. For dyrep, every convolution has grown once: what a training grows
# depends on its data.
PEERS = {
    "acnet_resnet18": 19_028_520,
    "acnet_resnet34": 35_885_352,
    "acnet_resnet50": 33_116_968,
    # Published: 26.3, 49.9 and 40.7 million.
    "dbb_resnet18": 26_288_296,
    "dbb_resnet34": 49_901_224,
    "dbb_resnet50": 40_684_456,
    "dyrep_resnet18": 33_658_167,
    "dyrep_resnet34": 64_038_327,
    "dyrep_resnet50": 48_274_935,
    # Of ACNet's VGG-16 24,810,570 and 34,555,673; Table 2's has one linear layer less and biases.
    "acnet_vgg16": 24_810_570 - 14_986_698 + 14_728_266,
    "dbb_vgg16": 34_555_673 - 14_986_698 + 14_728_266,
}
# On VGG-16 RepVGG's branches, and all of those that DyRep and RepNAS choose from.
ON_VGG = {"repvgg_vgg16": 16_377_738, "repnas_vgg16": 44_127_641, "dyrep_vgg16": 44_136_089}

# Name in the registry, parameters in training as the paper prints them in millions, and with our branches.
IREP = [
    ("irep_resnet18", 18.23, 18_870_635),
    ("irep_resnet34", 36.12, 37_642_162),
    ("irep_resnet50", 29.04, 29_384_682),
]
# By column, times C_in * C_out: the 1x1 in front of the average pool and of the 3x3 is not in the paper's count.
PAPER_COSTS = (0, 3, 9, 2, 1, 2, 3)


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PLAIN)
def test_plain_networks_have_the_published_counts(name: str, meta: None) -> None:
    assert count(build(name), NETS[name].input_shape) == Counts(*PLAIN[name])


@pytest.mark.parametrize(
    "name", [name if name in BY_DAY else pytest.param(name, marks=pytest.mark.slow) for name in REPVGG]
)
def test_repvgg_has_the_published_counts(name: str, meta: None) -> None:
    fused, with_branches, published_millions, published_billions = REPVGG[name]
    net = build(name)
    assert params(net) == with_branches
    plain = count(rebuild(build_plain(name), replace(origin_of(net), state=FUSED)), NETS[name].input_shape)
    assert plain.params == fused
    assert plain.params // 10_000 / 100 == published_millions
    assert round(plain.macs / 1e9, 1) == published_billions


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "resnet34" in name else name for name in (*PEERS, *ON_VGG)]
)
def test_peers_have_their_parameters_in_training(name: str, meta: None) -> None:
    assert params(build(name)) == {**PEERS, **ON_VGG}[name]


def test_peers_of_acnet_s_own_vgg16(meta: None) -> None:
    assert params(build("vgg16_acnet", branches="acnet")) == 24_810_570
    assert params(build("vgg16_acnet", branches="dbb")) == 34_555_673


def test_branches_on_vgg16_by_their_formulas() -> None:
    layers = list(zip((3, *VGG16), VGG16, strict=False))
    one = sum(c * d + 2 * d for c, d in layers)
    identity = sum(2 * d for c, d in layers if c == d)
    assert ON_VGG["repvgg_vgg16"] == PLAIN["vgg16"][0] + one + identity
    chain = sum(c * c + 2 * c + 9 * c * d + 2 * d for c, d in layers)
    average = sum(c * d + 4 * d for c, d in layers)
    rows = sum(2 * (3 * c * d + 2 * d) for c, d in layers)
    assert ON_VGG["repnas_vgg16"] == PLAIN["vgg16"][0] + one + chain + average + rows + identity
    # A grown block keeps the network's normalization and gets one of its own.
    assert ON_VGG["dyrep_vgg16"] == ON_VGG["repnas_vgg16"] + sum(2 * d for d in VGG16)


def test_every_registered_network_is_counted() -> None:
    counted = {*PLAIN, *REPVGG, *PEERS, *ON_VGG, *(name for name, _, _ in IREP)}
    # Those of detectors are in tests/detect.
    others = {name for name, net in NETS.items() if net.builder is not CellNetwork and net.where == "*"}
    assert others - counted == {
        "vgg6", "compact6", "small_vgg6", "small_resnet18", "irep_vgg16", "irep_resnet18_cifar"
    }  # fmt: skip


def test_the_compact_network_is_the_one_described() -> None:
    net = build("compact6")
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert [module.out_channels for module in convolutions] == [8, 8, 16, 16, 32, 32]
    assert [module.stride[0] for module in convolutions] == [1, 1, 2, 1, 2, 1]
    assert params(net) == 18_482
    assert net.eval().stages[2](torch.zeros(1, 16, 14, 14)).shape == (1, 32, 7, 7)


@pytest.mark.parametrize(("name", "count"), [("small_vgg6", 288_170), ("small_resnet18", 701_178)])
def test_the_small_networks_are_those_described(name: str, count: int) -> None:
    net = build(name)
    assert params(net) == count
    assert net.eval()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_what_is_not_as_published_says_so() -> None:
    stand_ins = ("goldnas", "goldnas_cifar", "amoebanet_a", "amoebanet_a_cifar", "repnas_vgg16", "irep_vgg16")
    unlike = {name for name in NETS if name.startswith(("dyrep_", "irep_", "cars_", "pdarts"))}
    assert {*stand_ins, *unlike} == {name for name, net in NETS.items() if net.note}
    for name, word in (("goldnas", "stand-in"), ("repnas_vgg16", "not found"), ("dyrep_resnet50", "31.5M")):
        assert word in NETS[name].note
    # One line of a table's footnotes, and no sentence of its own.
    assert not any("\n" in net.note or net.note.endswith(".") for net in NETS.values())


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        *(
            (name, (2, 32, 32), 7)
            for name in (*PLAIN, "vgg6", "compact6", "small_vgg6", "small_resnet18", "irep_resnet50", "repvgg_b1g4")
        ),
        *((name, (3, 224, 160), 1000) for name in ("vgg16_acnet", "resnet18_cifar")),
        *((name, (1, 65, 33), 1) for name in ("irep_vgg16", "irep_resnet18", "repvgg_a0")),
    ],
)
def test_any_size_and_class_count(name: str, shape: tuple[int, int, int], classes: int, meta: None) -> None:
    net = build(name, num_classes=classes, input_shape=shape)
    assert net(torch.zeros(2, *shape)).shape == (2, classes)
    assert origin_of(net).input_shape == shape and net.training


def test_with_random_weights_they_fuse_to_the_same_outputs() -> None:
    net = random_network("repvgg_a0")
    plain = ird.fuse(net)
    assert blocks(net) and not blocks(plain) and params(plain) < params(net)
    assert ird.compare(net, plain, torch.randn(2, 3, 32, 32)).ok


def test_unknown_network_suggests_the_near_one() -> None:
    with pytest.raises(ModelError, match="did you mean resnet18"):
        build("resnet81")
    with pytest.raises(ModelError, match="cannot build"):
        build("vgg6", width=3)
    with pytest.raises(ModelError, match="cannot build"):
        build("vgg6", input_shape=(16, 16))


def test_branches_of_a_network_by_name(meta: None) -> None:
    assert not blocks(build_plain("irep_resnet18")) and not blocks(build("irep_resnet18", branches=None))
    published = PUBLISHED["irep-resnet18"]
    origin = origin_of(build("irep_resnet18"))
    assert origin.net == "irep_resnet18" and origin.architecture.digest == published.digest
    for branches in ("irep-resnet18", published):
        net = build("resnet18", branches=branches)
        assert net.layer4[1].conv2.active == COLUMNS and blocks(net).keys() == set(published.layers)
    assert build("vgg6", branches=["conv1x1"]).stages[0][0].conv.active == ("conv1x1",)
    assert "branches" not in origin_of(build("vgg6", branches="ireps", num_classes=3)).args
    with pytest.raises(ArchitectureError, match="unknown preset"):
        build("vgg6", branches="irep")
    with pytest.raises(ArchitectureError, match=r"layer1\.0\.conv1.*no such"):
        build("vgg6", branches="irep-resnet18")


def test_irep_networks_have_all_that_is_possible(meta: None) -> None:
    vgg = blocks(build("irep_vgg16"))
    assert len(vgg) == 13 and sum(len(block.active) for block in vgg.values()) == 113
    resnet = blocks(build("irep_resnet18_cifar"))
    assert len(resnet) == 17 and {len(block.active) for block in resnet.values()} == {8}


def test_a_network_with_branches_of_its_own_is_saved_and_loaded(tmp_path: Path) -> None:
    net = random_network("irep_resnet18_cifar", depths=(1, 1))
    path = ird.save(net, tmp_path / "net.pt")
    again = ird.load(path)
    assert len(blocks(again)) == 5 and origin_of(again) == origin_of(net)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(
    ("name", "ones", "possible"), [("irep-resnet18", 57, 112), ("irep-resnet34", 114, 224), ("irep-resnet50", 57, 112)]
)
def test_published_architectures_have_the_published_ones(name: str, ones: int, possible: int) -> None:
    arch = PUBLISHED[name]
    assert arch.branches == COLUMNS and arch.count == ones
    assert len(arch.layers) * len(COLUMNS) == possible


@pytest.mark.parametrize(("name", "published", "ours"), IREP)
def test_published_architectures_have_our_parameters(name: str, published: float, ours: int, meta: None) -> None:
    net = build(name)
    assert params(net) == ours
    # What is above the paper's count: the 1x1 in front of the average pool and of the 3x3.
    uncounted = 0
    for block in blocks(net).values():
        channels, out_channels = block.fixed.conv.in_channels, block.fixed.conv.out_channels
        uncounted += channels * out_channels * ("conv1x1_avg3x3" in block.active)
        uncounted += channels * channels * ("conv1x1_3x3" in block.active)
    assert (ours - uncounted) / 1e6 == pytest.approx(published, abs=0.01)


def test_one_order_of_the_columns_alone_gives_the_paper_s_parameters(meta: None) -> None:
    fits = set(itertools.permutations(PAPER_COSTS))
    for name, published, _ in IREP:
        plain, arch = build_plain(name), PUBLISHED[NETS[name].branches or ""]
        pairs, rest = [0] * len(COLUMNS), params(plain)
        for layer, row in zip(arch.layers, arch.matrix, strict=True):
            conv = plain.get_submodule(layer)
            for column, bit in enumerate(row):
                pairs[column] += bit * conv.in_channels * conv.out_channels
            # Small terms only affect the second decimal: a bias, gamma and beta per branch, and the factors.
            rest += 3 * conv.out_channels * sum(row) + sum(row) + 1
        for costs in list(fits):
            total = rest + sum(cost * pair for cost, pair in zip(costs, pairs, strict=True))
            if round(total / 1e6, 2) != published:
                fits.remove(costs)
    assert fits == {PAPER_COSTS}
