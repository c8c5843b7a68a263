"""Published blocks with batch normalization in the middle of a branch, for which the border matters, and OREPA.

DBB and DyRep pad the normalization with its image of zero by slice assignment. A naive copy pads with zeros, which is
not equivalent to one convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.published_blocks import RepVGGBlock, conv_bn


class BNAndPadLayer(nn.Module):
    """Batch normalization, then a border of its image of zero, written into a padded copy."""

    def __init__(self, pixels: int, channels: int) -> None:
        super().__init__()
        self.bn, self.pixels = nn.BatchNorm2d(channels), pixels

    def forward(self, x: Tensor) -> Tensor:
        output, bn = self.bn(x), self.bn
        if self.pixels > 0:
            assert bn.running_mean is not None and bn.running_var is not None
            deviation = torch.sqrt(bn.running_var + bn.eps)
            values = bn.bias.detach() - bn.running_mean * bn.weight.detach() / deviation
            output = F.pad(output, [self.pixels] * 4)
            values = values.view(1, -1, 1, 1)
            output[:, :, 0 : self.pixels, :] = values
            output[:, :, -self.pixels :, :] = values
            output[:, :, :, 0 : self.pixels] = values
            output[:, :, :, -self.pixels :] = values
        return output


class IdentityBasedConv1x1(nn.Module):
    """1x1 convolution with the kernel I + W."""

    id_tensor: Tensor

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(channels, channels // groups, 1, 1).normal_(0, 0.1))
        identity = torch.zeros(channels, channels // groups, 1, 1)
        for channel in range(channels):
            identity[channel, channel % (channels // groups), 0, 0] = 1
        self.register_buffer("id_tensor", identity)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight + self.id_tensor, None, 1, 0, 1, self.groups)


class DiverseBranchBlock(nn.Module):
    """KxK, 1x1, 1x1 before KxK, and 1x1 before an average (Ding et al., 2021); depthwise as published."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        kernel: int = 3,
        padding: int | None = None,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.dbb_origin = conv_bn(in_channels, out_channels, kernel, stride, padding, groups=groups)
        depthwise = groups == out_channels
        average: list[nn.Module] = []
        if not depthwise:
            conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
            average = [conv, BNAndPadLayer(padding, out_channels), nn.AvgPool2d(kernel, stride, 0)]
            # As published: this branch has no padding of its own.
            aligned = padding == kernel // 2
            self.dbb_1x1 = conv_bn(in_channels, out_channels, 1, stride, groups=groups) if aligned else None
        else:
            average = [nn.AvgPool2d(kernel, stride, padding)]
            self.dbb_1x1 = None
        self.dbb_avg = nn.Sequential(*average, nn.BatchNorm2d(out_channels))
        inner = 2 * in_channels if depthwise else in_channels
        first: nn.Module = IdentityBasedConv1x1(in_channels, groups)
        if depthwise:
            first = nn.Conv2d(in_channels, inner, 1, groups=groups, bias=False)
        self.dbb_1x1_kxk = nn.Sequential(
            first, BNAndPadLayer(padding, inner), *conv_bn(inner, out_channels, kernel, stride, groups=groups)
        )
        self.nonlinear: nn.Module = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.dbb_origin(x)
        if self.dbb_1x1 is not None:
            out += self.dbb_1x1(x)
        out += self.dbb_avg(x)
        out += self.dbb_1x1_kxk(x)
        return self.nonlinear(out)


class DyRepBlock(nn.Module):
    """The seven branches of a grown convolution, whose original has a bias; the network's normalization stays after it
    (Huang et al., 2022).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv_1x1 = conv_bn(in_channels, out_channels, 1, stride)
        self.conv_1x1_kxk = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1, bias=False),
            BNAndPadLayer(1, in_channels),
            *conv_bn(in_channels, out_channels, 3, stride),
        )
        self.conv_1x1_avg = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            BNAndPadLayer(1, out_channels),
            nn.AvgPool2d(3, stride),
            nn.BatchNorm2d(out_channels),
        )
        self.origin = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.BatchNorm2d(out_channels))
        self.conv_1xk = conv_bn(in_channels, out_channels, (1, 3), stride, (0, 1))
        self.conv_kx1 = conv_bn(in_channels, out_channels, (3, 1), stride, (1, 0))
        self.identity = nn.BatchNorm2d(in_channels) if in_channels == out_channels and stride == 1 else None
        self.outer, self.relu = nn.BatchNorm2d(out_channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_1x1(x) + self.conv_1x1_kxk(x) + self.conv_1x1_avg(x) + self.origin(x)
        out = out + self.conv_1xk(x) + self.conv_kx1(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return self.relu(self.outer(out))


class NaiveIrepsBlock(nn.Module):
    """The ten operations of IREPS, weighted by sigmoids, with zero padding after the normalizations in the middle."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.fixed = conv_bn(in_channels, out_channels, 3, stride, 1)
        branches: list[nn.Module] = [
            conv_bn(in_channels, out_channels, (1, 3), stride, (0, 1)),
            conv_bn(in_channels, out_channels, (3, 1), stride, (1, 0)),
            conv_bn(in_channels, out_channels, 1, stride),
            nn.Sequential(*conv_bn(in_channels, in_channels, 1), *conv_bn(in_channels, out_channels, 3, stride, 1)),
            nn.Sequential(
                *conv_bn(in_channels, out_channels, 1), nn.AvgPool2d(3, stride, 1), nn.BatchNorm2d(out_channels)
            ),
            conv_bn(in_channels, out_channels, (1, 2), stride, (0, 1), dilation=2),
            conv_bn(in_channels, out_channels, (2, 1), stride, (1, 0), dilation=2),
            conv_bn(in_channels, out_channels, 2, stride, 1, dilation=2),
        ]
        if in_channels == out_channels and stride == 1:
            branches.append(nn.BatchNorm2d(in_channels))
        self.branches = nn.ModuleList(branches)
        self.alpha, self.beta = nn.Parameter(torch.randn(len(branches))), nn.Parameter(torch.randn(()))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.alpha)
        total = sum(weights[place] * branch(x) for place, branch in enumerate(self.branches))
        return self.relu(self.fixed(x) + torch.sigmoid(self.beta) * total)


class OREPA(nn.Module):
    """One convolution whose kernel is computed from six others at every call, then normalized (Hu et al., 2022)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        small, out = 3 * 3, out_channels
        self.origin = nn.Parameter(torch.randn(out, in_channels, 3, 3) * 0.1)
        self.avg_conv = nn.Parameter(torch.randn(out, in_channels, 1, 1) * 0.1)
        self.register_buffer("avg_avg", torch.full((3, 3), 1 / small))
        self.conv_1x1 = nn.Parameter(torch.randn(out, in_channels, 1, 1) * 0.1)
        self.kxk_conv1 = nn.Parameter(
            torch.eye(in_channels)[:, :, None, None] + 0.1 * torch.randn(in_channels, 1, 1, 1)
        )
        self.kxk_conv2 = nn.Parameter(torch.randn(out, in_channels, 3, 3) * 0.1)
        self.pfir_conv = nn.Parameter(torch.randn(out, in_channels, 1, 1) * 0.1)
        self.register_buffer("prior", _cosines(out))
        self.dws_dw = nn.Parameter(torch.randn(in_channels, 1, 3, 3) * 0.1)
        self.dws_pw = nn.Parameter(torch.randn(out, in_channels, 1, 1) * 0.1)
        self.vector = nn.Parameter(torch.rand(6, out) + 0.1)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(x, self._kernel(), None, self.stride, 1))

    def _kernel(self) -> Tensor:
        vector = self.vector
        average = torch.einsum("oi,hw->oihw", self.avg_conv.squeeze(3).squeeze(2), self.avg_avg)
        filtered = torch.einsum("oi,ohw->oihw", self.pfir_conv.squeeze(3).squeeze(2), self.prior)
        chain = torch.einsum("ti,othw->oihw", self.kxk_conv1.squeeze(3).squeeze(2), self.kxk_conv2)
        separable = torch.einsum("ihw,oi->oihw", self.dws_dw.squeeze(1), self.dws_pw.squeeze(3).squeeze(2))
        centre = F.pad(self.conv_1x1, (1, 1, 1, 1))
        parts = (self.origin, average, centre, chain, filtered, separable)
        return torch.stack([torch.einsum("oihw,o->oihw", part, vector[i]) for i, part in enumerate(parts)]).sum(0)


class RepVGGBlockOREPA(RepVGGBlock):
    """OREPA in place of RepVGG's 3x3, with the 1x1 and the identity."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.rbr_dense = OREPA(in_channels, out_channels, stride)


def _cosines(channels: int) -> Tensor:
    """Return (C, 3, 3) filters: rows for the first half of the channels, columns for the second."""
    prior = torch.zeros(channels, 3, 3)
    half = channels // 2
    for channel in range(channels):
        frequency = (channel % half + 1) / half if half else 1.0
        wave = torch.cos(torch.pi * (torch.arange(3) + 0.5) * frequency / 3)
        prior[channel] = wave[:, None] if channel < half else wave[None, :]
    return prior
