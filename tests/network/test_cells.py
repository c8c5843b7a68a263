"""Networks of cells: published sizes, the wiring of a cell, each operation, other image sizes and classes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import ModelError
from irepdeploy.network.nets import NETS, build
from irepdeploy.network.nets.cells import Cell, CellNetwork
from irepdeploy.network.nets.genotype import genotype_of
from irepdeploy.network.nets.operations import OPERATION_SETS, FactorizedReduction, operation
from irepdeploy.network.nets.statistics import randomize_statistics, settle_statistics
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.reparam.insert import expandable
from irepdeploy.reparam.origin import origin_of
from support.networks import random_network

# Parameters and MACs, counted beforehand by another program from the genotypes alone, and the parameters that are
# published, in millions; None where they are of another network (its note says which) or not published.
SIZES = {
    "darts_cifar": (3_349_342, 528_359_040, 3.3),
    "darts": (4_718_752, 529_911_552, 4.7),
    "pdarts_cifar": (3_433_798, 532_174_464, 3.4),
    "pdarts": (4_944_352, 542_819_328, 4.9),
    "cars_a_cifar": (2_432_206, 392_054_400, 2.4),
    "cars_a": (3_687_712, 410_524_032, 3.7),
    "cars_b_cifar": (2_672_830, 421_941_888, 2.7),
    "cars_b": (4_022_272, 441_956_160, 4.0),
    "cars_c_cifar": (2_797_030, 442_594_944, 2.8),
    "cars_c": (4_189_408, 460_631_040, 4.2),
    "cars_d_cifar": (2_906_542, 462_390_912, 2.9),
    "cars_d": (4_280_800, 475_138_176, 4.3),
    "cars_e_cifar": (2_977_390, 463_413_888, 3.0),
    "cars_e": (4_386_688, 480_717_120, 4.4),
    "cars_f_cifar": (3_141_766, 503_033_472, 3.1),
    "cars_f": (4_541_344, 508_517_760, 4.5),
    "cars_g_cifar": (3_194_254, 500_683_392, 3.2),
    "cars_g": (4_678_912, 513_946_176, 4.7),
    "cars_h_cifar": (3_348_694, 529_326_720, 3.3),
    "cars_h": (4_819_456, 535_377_600, 4.8),
    "cars_i_cifar": (3_594_718, 564_743_808, 3.6),
    "cars_i": (5_082_784, 566_151_168, 5.1),
    "cars_lat_a": (2_728_768, 289_189_056, None),
    "cars_lat_b": (2_834_560, 305_107_392, None),
    "cars_lat_c": (2_951_488, 314_647_104, None),
    "cars_lat_d": (3_375_328, 363_446_400, None),
    "cars_lat_e": (3_205_408, 336_840_576, None),
    "cars_lat_f": (3_683_008, 393_015_744, None),
    "cars_lat_g": (4_550_080, 496_729_536, None),
    "amoebanet_a_cifar": (3_145_078, 488_931_552, None),
    "amoebanet_a": (4_627_360, 526_746_624, None),
    "goldnas_cifar": (3_442_006, 504_637_056, None),
    "goldnas": (6_294_605, 659_985_920, None),
}
# The others are built and counted at night.
BY_DAY = ("darts_cifar", "amoebanet_a", "cars_lat_a", "goldnas_cifar")
# Convolutions, those of them that are depthwise, batch normalizations, pools.
LAYERS = {
    "darts_cifar": (439, 198, 239, 10),
    "darts": (298, 132, 163, 10),
    "pdarts_cifar": (435, 196, 237, 4),
    "pdarts": (306, 136, 167, 4),
    "cars_i_cifar": (463, 206, 251, 6),
    "cars_i": (322, 140, 175, 6),
    "amoebanet_a_cifar": (367, 160, 203, 82),
    "amoebanet_a": (262, 112, 145, 58),
    "goldnas_cifar": (487, 222, 312, 0),
    "goldnas": (490, 222, 314, 0),
}


def layers(model: nn.Module) -> tuple[int, ...]:
    modules = list(model.modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    return (
        len(convolutions),
        sum(conv.groups > 1 for conv in convolutions),
        sum(isinstance(module, nn.BatchNorm2d) for module in modules),
        sum(isinstance(module, nn.MaxPool2d | nn.AvgPool2d) for module in modules),
    )


def test_every_network_of_cells_has_a_published_size_or_a_note() -> None:
    assert set(SIZES) == {name for name, net in NETS.items() if net.builder is CellNetwork}
    for name, (params, _, published) in SIZES.items():
        assert NETS[name].note if published is None else round(params / 1e6, 1) == published, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in BY_DAY else pytest.mark.slow) for name in SIZES]
)
def test_sizes_and_layers(name: str, meta: None) -> None:
    net = build(name)
    assert count(net, NETS[name].input_shape) == Counts(*SIZES[name][:2])
    assert name not in LAYERS or layers(net) == LAYERS[name]


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("amoebanet_a_cifar", (1, 36, 64), 3),
        ("goldnas_cifar", (3, 4, 4), 7),
        ("goldnas", (4, 32, 96), 2),
    ],
)
def test_any_size_and_class_count(name: str, shape: tuple[int, int, int], classes: int, meta: None) -> None:
    net = build(name, num_classes=classes, input_shape=shape).eval()
    # Odd batches too: nothing may halve a batch.
    assert net(torch.zeros(3, *shape)).shape == (3, classes)
    assert origin_of(net).input_shape == shape


@pytest.mark.parametrize(
    ("name", "shape", "hint"), [("darts_cifar", (3, 30, 32), "4"), ("cars_a", (3, 224, 223), "32")]
)
def test_sizes_that_cannot_be_halved_are_refused(name: str, shape: tuple[int, int, int], hint: str) -> None:
    with pytest.raises(ModelError, match=rf"{name}: expected height and width in multiples of {hint}"):
        build(name, input_shape=shape)


def cell(genotype: str, index: int = 0, *, reduction: bool = False, after_reduction: bool = False) -> Cell:
    found = genotype_of(genotype)
    torch.manual_seed(0)
    made = Cell(
        found.cell(index, reduction),
        (6, 8),
        4,
        operations=found.operations,
        reduction=reduction,
        after_reduction=after_reduction,
    )
    randomize_statistics(made)
    return made.eval()


@torch.no_grad()
def test_the_normal_cell_of_darts_is_wired_as_published() -> None:
    made = cell("darts_v2")
    s0, s1 = torch.randn(2, 6, 5, 7), torch.randn(2, 8, 5, 7)
    a, b = made.preprocess0(s0), made.preprocess1(s1)
    (sep0, sep1), (sep2, sep3), (sep4, skip4), (skip5, dil5) = made.nodes
    assert isinstance(skip4, nn.Identity) and isinstance(skip5, nn.Identity)
    c = sep0(a) + sep1(b)
    expected = torch.cat([c, sep2(a) + sep3(b), sep4(b) + a, a + dil5(c)], 1)
    assert torch.equal(made(s0, s1), expected)
    assert len(sep0) == 8 and len(dil5) == 4 and dil5[1].dilation == (2, 2)


@torch.no_grad()
def test_the_reduction_cell_of_amoebanet_is_wired_as_published() -> None:
    made = cell("amoebanet_a", reduction=True, after_reduction=True)
    s0, s1 = torch.randn(2, 6, 16, 16), torch.randn(2, 8, 8, 8)
    a, b = made.preprocess0(s0), made.preprocess1(s1)
    (avg2, sep2), (max3, sep3), (sep4, avg4), (max5a, max5b), (cross6, sep6) = made.nodes
    c = avg2(a) + sep2(b)
    d = max3(a) + sep3(c)
    e = sep4(a) + avg4(b)
    f = max5a(a) + max5b(b)
    expected = torch.cat([d, e, cross6(a) + sep6(f)], 1)
    assert torch.equal(made(s0, s1), expected) and expected.shape == (2, 12, 4, 4)


@torch.no_grad()
def test_a_cell_of_goldnas_sums_any_number_of_operations_a_node() -> None:
    made = cell("goldnas_s1")
    s0, s1 = torch.randn(2, 6, 4, 4), torch.randn(2, 8, 4, 4)
    a, b = made.preprocess0(s0), made.preprocess1(s1)
    (k0, s2, k1), (k3, s3, s3b), (k4, s4, k4b), (k5, s5) = made.nodes
    c = k0(a) + s2(a) + k1(b)
    expected = torch.cat([c, k3(b) + s3(b) + s3b(c), k4(a) + s4(b) + k4b(c), k5(a) + s5(a)], 1)
    assert torch.equal(made(s0, s1), expected)
    # A skip is a batch normalization alone, and those in cells have neither gamma nor beta.
    assert isinstance(k0, nn.BatchNorm2d) and k0.weight is None
    assert all(module.weight is None for module in made.modules() if isinstance(module, nn.BatchNorm2d))


@torch.no_grad()
def test_a_factorized_reduction_reads_even_pixels_and_then_odd_ones() -> None:
    made = FactorizedReduction(2, 4, True).eval()
    for conv in (made.conv1, made.conv2):
        conv.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
    x = torch.arange(32.0).reshape(1, 2, 4, 4) - 8
    kept = x.relu() / (1 + made.bn.eps) ** 0.5
    assert torch.allclose(made(x), torch.cat([kept[:, :, ::2, ::2], kept[:, :, 1::2, 1::2]], 1))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", OPERATION_SETS)
def test_operations_keep_channels_and_divide_the_size(kind: str, stride: int) -> None:
    x = torch.ones(2, 6, 8, 8)
    for name in ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3", "dil_conv_5x5", "conv_7x1_1x7"):
        made = operation(name, 6, stride, OPERATION_SETS[kind]).eval()
        assert made(x).shape == (2, 6, 8 // stride, 8 // stride)
        assert all(module.bias is None for module in made.modules() if isinstance(module, nn.Conv2d))
    # Padding is not counted in averages, and is never the maximum.
    assert torch.equal(operation("avg_pool_3x3", 6, stride, OPERATION_SETS[kind])(x), x[:, :, ::stride, ::stride])
    assert torch.equal(operation("max_pool_3x3", 6, stride, OPERATION_SETS[kind])(-x), -x[:, :, ::stride, ::stride])


def order(module: nn.Module) -> str:
    """Its layers in order: relu, depthwise, conv, bn."""
    names = {nn.ReLU: "relu", nn.BatchNorm2d: "bn"}
    return " ".join(
        ("depthwise" if layer.groups > 1 else "conv") if isinstance(layer, nn.Conv2d) else names[type(layer)]
        for layer in module.children()
    )


def test_the_layers_of_an_operation_stand_in_the_published_order() -> None:
    half = "relu depthwise conv bn"
    expected = {"sep_conv_3x3": f"{half} {half}", "dil_conv_5x5": half, "conv_7x1_1x7": "relu conv conv bn"}
    for name, text in expected.items():
        assert order(operation(name, 4, 2, OPERATION_SETS["darts"])) == text
    assert order(cell("darts_v2").preprocess1) == "relu conv bn"
    small, large = (build(name, channels=4, cells=3) for name in ("darts_cifar", "darts"))
    assert order(small.stem0) == "conv bn" and small.stem1 is None
    assert order(large.stem0) == "conv bn relu conv bn" and order(large.stem1) == "relu conv bn"


def test_a_dilated_convolution_reads_every_second_pixel() -> None:
    for name, reach in (("dil_conv_3x3", 2), ("dil_conv_5x5", 4)):
        made = operation(name, 1, 1, OPERATION_SETS["darts"]).eval()
        for parameter in made.parameters():
            nn.init.ones_(parameter)
        x = torch.zeros(1, 1, 15, 15)
        x[0, 0, 7, 7] = 1
        hit = (made(x) > made(x).min()).nonzero()[:, 2:] - 7
        side = range(-reach, reach + 1, 2)
        assert sorted(map(tuple, hit.tolist())) == [(row, column) for row in side for column in side]


def test_they_train() -> None:
    torch.manual_seed(0)
    net = build("goldnas_cifar", channels=4, input_shape=(3, 8, 8)).train()
    nn.functional.cross_entropy(net(torch.randn(3, 3, 8, 8)), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    assert not any("aux" in name for name, _ in net.named_modules())


def test_branches_can_be_inserted_and_fused() -> None:
    small = build("darts_cifar", channels=4, cells=3, input_shape=(3, 8, 8))
    reasons = Counter(reason and reason[:10] for reason in expandable(small, "ireps").values())
    assert reasons["kernel 1x1"] == 18 and reasons[None] == 12 and len(reasons) == 2
    net = randomize_statistics(ird.insert_branches(small, "ireps", where="cells.0")).eval()
    plain = ird.fuse(net)
    assert ird.compare(net, plain, torch.randn(3, 3, 8, 8)).ok
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_cell_network_is_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    genotype = {
        "operations": "goldnas",
        "cells": [{"nodes": [[["skip_connect", 0], ["sep_conv_3x3", 1]]], "concat": [2]}],
    }
    net = randomize_statistics(build("goldnas_cifar", genotype=genotype, cells=1, channels=4)).eval()
    again = ird.load(ird.save(net, tmp_path / "net.pt"))
    x = torch.randn(1, 3, 32, 32)
    assert origin_of(again) == origin_of(net)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(("name", "args"), [("vgg16", {}), ("amoebanet_a_cifar", {"channels": 8})])
@torch.no_grad()
def test_settled_statistics_let_the_input_through(name: str, args: dict[str, int]) -> None:
    net = random_network(name, **args)
    x = torch.randn(3, 3, 32, 32)
    lost: Tensor = net(x)
    modes = {key: module.training for key, module in net.named_modules()}
    gamma = next(m.weight.clone() for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    settle_statistics(net, (3, 32, 32))
    kept: Tensor = net(x)
    assert kept.shape == (3, 10) and float(kept.std(0).min()) > 0.01 > 1e-4 > float(lost.std(0).max())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert torch.equal(norms[0].weight, gamma) and all(module.momentum == 0.1 for module in norms)
    assert {key: module.training for key, module in net.named_modules()} == modes
    assert all(bool((module.running_var > 0).all()) for module in norms)
    again = settle_statistics(random_network(name, **args), (3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), again.buffers(), strict=True) if a.is_floating_point())


def test_a_channel_that_never_varies_gets_a_positive_variance() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)).eval()
    for silent in (1, 3):
        nn.init.zeros_(net[0].weight[:silent])
        settle_statistics(net, (1, 4, 4))
        assert bool((net[1].running_var > 0).all())
