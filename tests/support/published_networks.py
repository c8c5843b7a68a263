"""Small networks of published blocks with random weights and statistics, and their numbers of fused convolutions."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.runtime.quiet_exporter import quiet_exporter
from support.published_blocks import (
    ACBlock,
    LinearAddBlock,
    MobileOneBlock,
    QARepVGGBlock,
    RepConv,
    RepConvN,
    RepVGGBlock,
    RepVGGDW,
    UniRepLKNetBlock,
    conv_bn,
)
from support.published_borders import DiverseBranchBlock, DyRepBlock, NaiveIrepsBlock, RepVGGBlockOREPA

Block = Callable[[int, int, int], nn.Module]

_CHANNELS = ((3, 16, 2), (16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 24, 1), (24, 32, 1))


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of one peer's blocks.

    Attributes:
        build: Function that builds the network with fresh weights.
        convs: Number of convolutions as trained.
        deploy_convs: Number of convolutions as fused by its authors; None if they cannot fuse it because of the border.
        rounded_border: Whether the file stores border values, which are rounded to float32.
        input_shape: Shape of an input without its batch, odd and not square.
    """

    build: Callable[[], nn.Module]
    convs: int
    deploy_convs: int | None
    rounded_border: bool = False
    input_shape: tuple[int, int, int] = (3, 21, 18)


def published_network(name: str, *, seed: int = 0) -> nn.Module:
    """Return the network of this name in `PUBLISHED`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PUBLISHED[name].build()
    return randomize_statistics(model, seed).eval()


def dbb_resnet18(input_shape: tuple[int, int, int] = (3, 224, 224), *, num_classes: int = 1000) -> nn.Module:
    """Return ResNet-18 with a published Diverse Branch Block in place of every 3x3 convolution, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_plain("resnet18", input_shape=input_shape, num_classes=num_classes)
        for name, conv in list(model.named_modules()):
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                block = DiverseBranchBlock(conv.in_channels, conv.out_channels, conv.stride[0])
                block.nonlinear = nn.Identity()
                model.set_submodule(name, block)
                model.set_submodule(name.replace("conv", "bn"), nn.Identity())
    return randomize_statistics(model).eval()


def exported(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    opset: int = 13,
    dynamo: bool = False,
    fold_bn: bool = True,
    dynamic: bool = False,
) -> bytes:
    """Export a network with torch's own exporter: batch 1, input "input", output "output".

    Args:
        dynamo: Use the newer exporter, which needs onnxscript, rather than the TorchScript one.
        fold_bn: Let the TorchScript exporter fold batch normalization after a convolution.
        dynamic: Make batch, height and width dynamic (TorchScript exporter).
    """
    buffer: Any = io.BytesIO()
    options: dict[str, Any] = {"dynamo": dynamo, "input_names": ["input"], "output_names": ["output"]}
    if not fold_bn:
        options["training"] = torch.onnx.TrainingMode.PRESERVE
    if dynamic:
        options["dynamic_axes"] = {"input": {0: "N", 2: "H", 3: "W"}, "output": {0: "N"}}
    if dynamo:
        options.update(external_data=False, verbose=False)
    example = (torch.randn(1, *input_shape),)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(model, example, None if dynamo else buffer, opset_version=opset, **options)
    return program.model_proto.SerializeToString() if dynamo and program is not None else buffer.getvalue()


class _Classifier(nn.Module):
    def __init__(self, blocks: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        self.blocks, self.pool = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1)
        self.flatten, self.fc = nn.Flatten(), nn.Linear(channels, 10)
        # A bias would dominate the small features of a deep random network and hide errors in them.
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.pool(self.blocks(x))))


def _of(*kinds: Block) -> Callable[[], nn.Module]:
    """Return a builder of six blocks that cycles through these kinds."""

    def build() -> nn.Module:
        blocks = [kinds[place % len(kinds)](*sizes) for place, sizes in enumerate(_CHANNELS)]
        return _Classifier(blocks, _CHANNELS[-1][1])

    return build


def _acnet() -> nn.Module:
    blocks = [ACBlock(3, 16, 3, 2), ACBlock(16, 16), ACBlock(16, 24, 5, 2, 2), ACBlock(24, 24, 3, 1, 0)]
    return _Classifier([*blocks, ACBlock(24, 24, 5, 1, 1), ACBlock(24, 32, 3, 1, 2)], 32)


def _dbb() -> nn.Module:
    blocks = [DiverseBranchBlock(*sizes) for sizes in _CHANNELS[:4]]
    blocks += [DiverseBranchBlock(24, 24, kernel=5), DiverseBranchBlock(24, 24, groups=24)]
    return _Classifier([*blocks, DiverseBranchBlock(24, 32, groups=2)], 32)


def _mobileone() -> nn.Module:
    blocks: list[nn.Module] = [MobileOneBlock(3, 16, 3, 2, branches=4)]
    for channels, wider, stride in ((16, 16, 1), (16, 24, 2), (24, 24, 1)):
        blocks += [
            MobileOneBlock(channels, channels, 3, stride, channels, 4),
            MobileOneBlock(channels, wider, 1, branches=4),
        ]
    return _Classifier(blocks, 24)


class _Implicit(nn.Module):
    """YOLOv7's learned number per channel, added or multiplied."""

    def __init__(self, channels: int, *, multiply: bool) -> None:
        super().__init__()
        self.implicit, self.multiply = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.3 + multiply), multiply

    def forward(self, x: Tensor) -> Tensor:
        return self.implicit * x if self.multiply else self.implicit + x


def _yolov7() -> nn.Module:
    blocks: list[nn.Module] = [RepConv(*sizes) for sizes in _CHANNELS]
    head = [_Implicit(32, multiply=False), nn.Conv2d(32, 18, 1), _Implicit(18, multiply=True)]
    return nn.Sequential(*blocks, *head)


class _RepNCSPELAN4(nn.Module):
    """YOLOv9's block: half of the channels pass through two stages, and all outputs are concatenated."""

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.cv1 = _silu(in_channels, 2 * width, 1)
        self.cv2 = nn.Sequential(_RepNCSP(width, width), _silu(width, width, 3))
        self.cv3 = nn.Sequential(_RepNCSP(width, width), _silu(width, width, 3))
        self.cv4 = _silu(4 * width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = list(self.cv1(x).chunk(2, 1))
        for stage in (self.cv2, self.cv3):
            found.append(stage(found[-1]))
        return self.cv4(torch.cat(found, 1))


class _RepNCSP(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.cv1, self.cv2 = _silu(in_channels, half, 1), _silu(in_channels, half, 1)
        self.cv3 = _silu(2 * half, out_channels, 1)
        self.rep, self.conv = RepConvN(half, half), _silu(half, half, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.cv1(x)
        return self.cv3(torch.cat((first + self.conv(self.rep(first)), self.cv2(x)), 1))


def _silu(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv_bn(in_channels, out_channels, kernel, stride, kernel // 2, eps=1e-3), nn.SiLU())


def _yolov9() -> nn.Module:
    return _Classifier([_silu(3, 16, 3, 2), _RepNCSPELAN4(16, 24, 8), _RepNCSPELAN4(24, 32, 16)], 32)


class _Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))


def _repvit() -> nn.Module:
    def mixer(channels: int) -> nn.Module:
        return _Residual(
            nn.Sequential(conv_bn(channels, 2 * channels, 1), nn.GELU(), conv_bn(2 * channels, channels, 1))
        )

    blocks: list[nn.Module] = [conv_bn(3, 8, 3, 2, 1), nn.GELU(), conv_bn(8, 16, 3, 2, 1)]
    blocks += [RepVGGDW(16), _SqueezeExcite(16), mixer(16), RepVGGDW(16), mixer(16)]
    blocks += [conv_bn(16, 16, 3, 2, 1, groups=16), conv_bn(16, 32, 1), mixer(32), RepVGGDW(32), mixer(32)]
    return _Classifier(blocks, 32)


def _unireplknet() -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return _Classifier([*stem, *(UniRepLKNetBlock(8, kernel) for kernel in (31, 17, 13, 7))], 8)


def _ireps() -> nn.Module:
    plain = [nn.Sequential(conv_bn(a, b, 3, stride, 1), nn.ReLU()) for a, b, stride in _CHANNELS]
    model = insert_branches(_Classifier(plain, _CHANNELS[-1][1]), "ireps")
    for module in model.modules():
        if isinstance(module, RepBlock) and module.beta is not None:
            for factor in (module.beta, *module.alpha.values()):
                nn.init.normal_(factor)
    return model


PUBLISHED: dict[str, PublishedNetwork] = {
    "repvgg": PublishedNetwork(_of(RepVGGBlock), 12, 6),
    "acnet": PublishedNetwork(_acnet, 18, 6),
    "dbb": PublishedNetwork(_dbb, 33, 7, rounded_border=True),
    "mobileone": PublishedNetwork(_mobileone, 32, 7),
    "yolov6": PublishedNetwork(_of(QARepVGGBlock, RepVGGBlock, LinearAddBlock), 12, 6),
    "yolov7": PublishedNetwork(_yolov7, 13, 7),
    "yolov9": PublishedNetwork(_yolov9, 33, 29),
    "repvit": PublishedNetwork(_repvit, 20, 17),
    "unireplknet": PublishedNetwork(_unireplknet, 31, 13, input_shape=(3, 47, 42)),
    "orepa": PublishedNetwork(_of(RepVGGBlockOREPA), 12, 6),
    "dyrep": PublishedNetwork(_of(DyRepBlock), 42, 6, rounded_border=True),
    "ireps": PublishedNetwork(_ireps, 60, 6, rounded_border=True),
    "ireps-naive": PublishedNetwork(_of(NaiveIrepsBlock), 60, None),
}
