"""Defects found in the fusing code of peers; each test names the peer and the defect."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import NotFusable
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.profiling.counts import count
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import origin_of
from irepdeploy.reparam.presets import PRESETS
from support.networks import random_network

STAGES = ((4, 4), (6,))
BRANCHED = [name for name, preset in PRESETS.items() if preset.branches]


def trained_look(model: nn.Module, seed: int = 0) -> nn.Module:
    return randomize_statistics(model.eval(), seed)


@pytest.mark.parametrize("preset", BRANCHED)
@pytest.mark.parametrize(("dilation", "padding"), [(1, 0), (2, 1), ((2, 1), (2, 1))])
def test_the_fused_convolution_keeps_every_setting(preset: str, dilation: object, padding: object) -> None:
    """timm builds it with padding 0 (14x14 -> 12x12); MobileOne and YOLOv6 leave dilation out in one of the states."""
    own = nn.Conv2d(4, 4, 3, (2, 1), padding, dilation, groups=2)
    net = trained_look(ird.insert_branches(nn.Sequential(own), preset), 1)
    fused = ird.fuse(net)[0]
    for setting in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(fused, setting) == getattr(own, setting), setting
    x = torch.randn(2, 4, 14, 14)
    assert net(x).shape == fused(x).shape == own(x).shape
    assert ird.compare(net, ird.fuse(net), x).ok


def test_what_is_not_ours_is_never_taken_for_ours() -> None:
    """RepViT's replace_batchnorm turns every normalization that it does not know into an identity."""
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net = trained_look(ird.insert_branches(own, "repvgg"), 3)
    plain = ird.fuse(net)
    assert isinstance(plain[2], nn.BatchNorm2d) and isinstance(plain[4], nn.BatchNorm2d)
    assert ird.compare(net, plain, torch.randn(2, 3, 9, 8)).ok


def test_a_fused_network_runs_from_its_checkpoint_alone(tmp_path: Path) -> None:
    """YOLOv6's QA blocks built in deploy form call a normalization that they do not have; timm (all but FastViT),
    RepVGG, yolov7: fused weights load into nothing without the right flag.
    """
    for preset in BRANCHED:
        plain = ird.fuse(trained_look(ird.insert_branches(ird.build("vgg6", stages=STAGES), preset), 4))
        ird.save(plain, tmp_path / "fused.pt")
        assert ird.load(tmp_path / "fused.pt")(torch.zeros(1, 1, 16, 16)).isfinite().all()


def test_nothing_else_is_frozen_and_no_normalization_is_left() -> None:
    """timm and MobileOne detach_() all parameters: after the fuse 2 of 136 are trainable. timm leaves normalizations
    behind fused convolutions (fastvit_t8 10, repghost 48): ours stay where they cannot be folded only.
    """
    net = random_network("irep_resnet18_cifar", seed=5, depths=(1, 1))
    net.fc.bias.requires_grad_(False)
    net.get_submodule("layer1.0.conv2").fixed.conv.weight.requires_grad_(False)
    plain = ird.fuse(net)
    frozen = [name for name, parameter in plain.named_parameters() if not parameter.requires_grad]
    assert frozen == ["layer1.0.conv2.weight", "layer1.0.conv2.bias", "fc.bias"]
    assert all(parameter.is_leaf for parameter in plain.parameters())
    left = [name for name, module in plain.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["layer2.0.downsample.1"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype(dtype: torch.dtype) -> None:
    """timm's RepViT, LeViT and EfficientViT fuse in float32 only: the fused convolution has the default dtype."""
    net = random_network("vgg6", "ireps", seed=6, stages=STAGES).to(dtype)
    plain = ird.fuse(net)
    assert {tensor.dtype for tensor in plain.state_dict().values() if tensor.is_floating_point()} == {dtype}
    x = torch.randn(2, 1, 16, 16, dtype=dtype)
    net.requires_grad_(False)
    plain.requires_grad_(False)
    largest = float(net(x).abs().max())
    allowed = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
    assert float((net(x) - plain(x)).abs().max()) <= allowed[dtype] * largest


def test_train_mode_is_refused_in_every_part() -> None:
    """timm, MobileOne and DBB fuse a network in train mode without a word (difference above 1000x)."""
    net = random_network("vgg6", "dbb", seed=7, stages=STAGES)
    for module in net.modules():
        if isinstance(module, RepBlock | nn.BatchNorm2d):
            module.training = True
            with pytest.raises(NotFusable, match="train mode"):
                ird.fuse(net)
            module.training = False
    ird.fuse(net)


def test_comparison_fails_when_it_should() -> None:
    """mmpretrain calls allclose without assert, RepVGG prints a squared sum: neither can fail."""
    net = random_network("vgg6", "ireps", seed=8, stages=STAGES)
    plain = ird.fuse(net)
    with torch.no_grad():
        plain.get_submodule("stages.1.0.conv").weight[0, 0, 2, 0] += 1e-2
    verdict = ird.compare(net, plain, torch.randn(2, 1, 16, 16))
    # The error names the worst layer, which is this one or one that reads it.
    assert not verdict.ok and verdict.worst_layer is not None and verdict.max_rel_error > 1e-4


def test_an_almost_dead_channel_does_not_upset_the_proof() -> None:
    """Variances down to 1e-8 make weights of hundreds; the error stays at rounding."""
    net = random_network("vgg6", "ireps", seed=9, stages=STAGES)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var[::3] = 1e-8
    x = torch.randn(2, 1, 16, 16)
    assert ird.compare(net, ird.fuse(net), x).ok


def test_the_size_of_the_model_is_that_of_the_fused_one() -> None:
    """yolov9 and DBB users take the parameters of the train state for the model's."""
    net = random_network("irep_resnet18_cifar", seed=10, depths=(1, 1))
    shape = origin_of(net).input_shape
    train, fused, own = (
        count(net, shape),
        count(ird.fuse(net), shape),
        count(ird.build("resnet18_cifar", depths=(1, 1)), shape),
    )
    assert train.params > 2 * fused.params and train.macs > 2 * fused.macs
    # 5 convolutions have a bias instead of gamma and beta.
    channels = 3 * 64 + 2 * 128
    assert fused.params == own.params - channels and fused.macs == own.macs


def test_moving_average_keeps_the_structure_of_the_network() -> None:
    """ultralytics and FasterViT: deepcopy for a moving average fails on tensors that a block keeps from its forward."""
    net = random_network("vgg6", "ireps", seed=11, stages=STAGES).train()
    net(torch.randn(2, 1, 16, 16)).sum().backward()
    twin = copy.deepcopy(net)
    assert ird.compare(net.eval(), ird.fuse(twin.eval()), torch.randn(2, 1, 16, 16)).ok


class BorderTrap(nn.Module):
    """1x1, normalization, zero padding, 3x3, as users of DBB write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.bn(self.first(x)))


def test_the_border_trap_is_seen_in_foreign_blocks() -> None:
    """DBB, OREPA: zero padding behind a normalization is not one convolution at the border."""
    net = trained_look(nn.Sequential(nn.Conv2d(3, 4, 3), BorderTrap()), 12)
    with pytest.raises(NotFusable, match="border"):
        ird.fuse_probe(net, where=BorderTrap)
    assert ird.fuse(random_network("vgg6", ["conv1x1_3x3"], seed=12, stages=STAGES)) is not None
