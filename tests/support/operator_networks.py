"""Networks of a single operator or layer, for everything that the ONNX writer supports, with odd sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FUNCTIONS", "INPUT_SHAPE", "MODULES", "Call", "conv", "decoded", "operator_network"]

INPUT_SHAPE = (4, 7, 9)


class Call(nn.Module):
    """A network made of one function and the modules that it uses."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(3)))
        self.register_buffer("offset", torch.randn(1, 4, 1, 1, generator=torch.Generator().manual_seed(4)))
        self.register_buffer("places", torch.tensor([3, 0, 2]))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv(*args: Any, **kwargs: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*args, **kwargs)


@torch.fx.wrap
def hidden(x: Tensor, factor: int) -> Tensor:
    return x * factor if x.shape[1] == 4 else x


def decoded(heat: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the peaks of a heat map as decoded by CenterNet: scores, classes, and centres in pixels."""
    width = heat.shape[3]
    kept = heat * (F.max_pool2d(heat, 3, 1, 1) == heat).float()
    scores, places = kept.flatten(2).topk(count)
    best, ranks = scores.flatten(1).topk(count)
    places = places.flatten(1).gather(1, ranks)
    rows, columns = places // width, places % width
    return best, torch.div(ranks, count, rounding_mode="floor"), 4 * torch.stack([columns, rows], 2).float() + 0.5


FUNCTIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "sigmoid": lambda m, x: torch.sigmoid(x) + x.sigmoid(),
    "tanh": lambda m, x: torch.tanh(x) * x.tanh(),
    "hardsigmoid": lambda m, x: F.hardsigmoid(3 * x),
    "hardswish": lambda m, x: F.hardswish(3 * x),
    "silu": lambda m, x: F.silu(x),
    "mish": lambda m, x: F.mish(x),
    "gelu": lambda m, x: F.gelu(x),
    "gelu by tanh": lambda m, x: F.gelu(x, approximate="tanh"),
    "elu": lambda m, x: F.elu(x, 0.7) + F.selu(x),
    "softplus": lambda m, x: F.softplus(x) - F.softsign(x),
    "glu": lambda m, x: F.glu(x, 1),
    "leaky_relu": lambda m, x: F.leaky_relu(x, 0.2),
    "relu6": lambda m, x: F.relu6(5 * x),
    "hardtanh": lambda m, x: F.hardtanh(x, -0.5, 0.25),
    "clamp": lambda m, x: x.clamp(min=-0.3) + x.clamp(max=0.4) + torch.clamp(x, -0.1, 0.1),
    "clamp_min": lambda m, x: x.clamp_min(0.1) - torch.clamp_max(x, 0.2),
    "prelu": lambda m, x: F.prelu(x, m.weight),
    "softmax": lambda m, x: torch.softmax(x, 1) + F.log_softmax(x, -1) + x.softmax(dim=2),
    "arithmetic": lambda m, x: (2 - x) * (x - 1.5) / (x * x + 3) - x.div(2).sub(0.5, alpha=3),
    "reversed": lambda m, x: 1 / (x.abs() + 1) + torch.rsub(x, 2) - x.neg(),
    "by a constant": lambda m, x: m.offset - x * m.weight.view(1, -1, 1, 1) + m.weight[:, None, None],
    "constant first": lambda m, x: m.weight.sigmoid().reshape(1, 4, 1, 1) * x,
    "powers": lambda m, x: x**2 + x.abs().pow(1.5) + torch.square(x) + x.exp().sqrt() + (x.abs() + 1).log(),
    "rsqrt": lambda m, x: torch.rsqrt(x.abs() + 0.1) + (x.abs() + 1).reciprocal(),
    "rounded": lambda m, x: torch.floor(x) - torch.ceil(x * 2),
    "waves": lambda m, x: torch.sin(x) * torch.cos(x),
    "add with alpha": lambda m, x: torch.add(x, x.relu(), alpha=2),
    "matmul": lambda m, x: x @ x.transpose(-1, -2) + torch.matmul(x, x.mT),
    "bmm": lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x + 1, x * 2),
    "mean of channels": lambda m, x: x.mean(1) + x.mean(dim=1, keepdim=True).squeeze(1),
    "mean of a row": lambda m, x: x.mean(-1, keepdim=True),
    "sum": lambda m, x: x.sum((2, 3)) + x.sum(dim=[-1, -2]) * 2,
    "largest": lambda m, x: x.amax((2, 3)) - x.amin(dim=(2, 3)),
    "largest and where": lambda m, x: (
        torch.max(x, 1, keepdim=True)[0],
        x.max(dim=1).indices,
        x.argmax(1),
        x.argmin(2),
    ),
    "what comes in": lambda m, x: (x, x + 1),
    "of two": lambda m, x: torch.maximum(x, -x) + torch.min(x, x * 2),
    "channel attention": lambda m, x: x * torch.cat([x.mean(1, True), x.max(1, True).values], 1).mean(1, True),
    "normalize": lambda m, x: F.normalize(x, dim=1),
    "layer norm of channels": lambda m, x: F.layer_norm(x.permute(0, 2, 3, 1), (4,), m.weight).permute(0, 3, 1, 2),
    "group norm": lambda m, x: F.group_norm(x, 2, m.weight, m.weight),
    "batch norm function": lambda m, x: F.batch_norm(x, m.weight, m.weight.abs() + 1, m.weight, None),
    "chunk": lambda m, x: x.chunk(2, 1)[1] * torch.chunk(x, 2, 1)[0],
    "split": lambda m, x: (lambda a, b, c: a + b + c)(*x.split([3, 3, 3], -1)),
    "split in equal parts": lambda m, x: torch.split(x, 4, dim=3),
    "unbind": lambda m, x: x.unbind(1),
    "slices": lambda m, x: x[:, 1:3, ::2, :-1] + x[:, :2, ::2, 1:],
    "slices of all": lambda m, x: x[..., 1:, 1:] + x[..., :-1, :-1],
    "numbers and None": lambda m, x: x[:, 1, None, :, -1] - x[:, -2][:, None, :, 0],
    "batch sliced": lambda m, x: x[:1] + x,
    "stack": lambda m, x: torch.stack([x, x * 2], 2),
    "cat of many": lambda m, x: torch.cat([x, x[:, :1], x.relu()], dim=1),
    "permute": lambda m, x: x.permute(0, 2, 3, 1).contiguous(),
    "transpose": lambda m, x: x.transpose(1, 3).swapaxes(2, 3),
    "reshape": lambda m, x: x.reshape(x.shape[0], 2, -1, x.size(3)),
    "reshape of the batch": lambda m, x: (x.view(-1, *x.shape[2:]) * 2).view(x.size(0), -1, 7, 9),
    "view as": lambda m, x: x.flatten(2).view_as(x),
    "flatten": lambda m, x: x.flatten(1, 2),
    "squeeze": lambda m, x: x[:, :1].squeeze(1).unsqueeze(-1),
    "unflatten": lambda m, x: x.unflatten(1, (2, 2)),
    "channel shuffle by hand": lambda m, x: x.view(x.size(0), 2, 2, 7, 9).transpose(1, 2).reshape(x.shape),
    "channel shuffle": lambda m, x: F.channel_shuffle(x, 2),
    "expand": lambda m, x: x[:, :1].expand(-1, 3, -1, -1) + m.weight[:3].view(1, 3, 1, 1).expand(1, 3, 7, 9),
    "expand as": lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x) * x,
    "repeat": lambda m, x: x.repeat(1, 2, 1, 3),
    "zero padding": lambda m, x: F.pad(x, (1, 2, 0, 3)),
    "constant padding": lambda m, x: F.pad(x, (1, 0), value=-1.5),
    "cropping": lambda m, x: F.pad(x, (-1, 2, -2, -1)),
    "reflect": lambda m, x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicate": lambda m, x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "roll": lambda m, x: torch.roll(x, (-2, 3), (2, 3)) + x.roll(1, 1),
    "circular": lambda m, x: F.pad(x, (1, 2, 3, 0), mode="circular"),
    "pixel shuffle": lambda m, x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda m, x: F.pixel_unshuffle(x[:, :, :6, :8], 2),
    "nearest twice": lambda m, x: F.interpolate(x, scale_factor=2),
    "nearest to a size": lambda m, x: F.interpolate(x, size=(15, 13)),
    "nearest by 1.5": lambda m, x: F.interpolate(x, scale_factor=1.5, mode="nearest"),
    "nearest down": lambda m, x: F.interpolate(x, size=(3, 4)),
    "nearest to another map": lambda m, x: F.interpolate(x[:, :, ::2, ::2], size=x.shape[2:]),
    "bilinear twice": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    "bilinear by 1.3": lambda m, x: F.interpolate(x, scale_factor=1.3, mode="bilinear"),
    "bilinear to a size": lambda m, x: F.interpolate(x, size=(15, 13), mode="bilinear"),
    "bilinear to one": lambda m, x: F.interpolate(x, size=(1, 20), mode="bilinear"),
    "bilinear, corners aligned": lambda m, x: F.interpolate(x, size=(15, 4), mode="bilinear", align_corners=True),
    "adaptive pool": lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive pool of one axis": lambda m, x: F.adaptive_avg_pool2d(x, (7, 1)),
    "adaptive max": lambda m, x: F.adaptive_max_pool2d(x, 1) + F.adaptive_max_pool2d(x, (7, 3)).amax((2, 3), True),
    "max pool, rounding up": lambda m, x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    "max pool, padded, rounding up": lambda m, x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average pool, rounding up": lambda m, x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "average pool, uncounted, rounding up": lambda m, x: F.avg_pool2d(x, 4, 3, 1, True, False),
    "function of a kernel": lambda m, x: F.conv2d(x, m.weight.view(4, 1, 1, 1).expand(4, 4, 3, 3) * 0.1, padding=1),
    "one-dimensional": lambda m, x: F.max_pool1d(m.line(x.flatten(2)), 3, 2),
    "a row for each of the batch": lambda m, x: torch.cat(
        [m.weight[:3].view(1, 3, 1, 1).expand(x.shape[0], 3, 7, 9), x + torch.ones(x.shape[0], 1, 1, 1)], 1
    ),
    "zeros of its size": lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 1, 7, 9), torch.ones_like(x) * 2], 1),
    "a function that fx is not to see": lambda m, x: hidden(x, 3),
    "in place": lambda m, x: (lambda y: F.relu6(y.mul_(3), True).add_(y))(x * 2),
    "in place through what gives back its input": lambda m, x: (lambda y: F.relu(m.same(y), True) + y)(x * 2),
    "in place operators": lambda m, x: (lambda y: m.change(y))(x + 1),
    "size in control flow": lambda m, x: x if x.shape[1] != 4 or x.dim() != 4 else x * 2,
    "padding to a multiple": lambda m, x: F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4)),
    "in training": lambda m, x: F.dropout(x, 0.5, m.training) + F.dropout2d(x, training=False),
    "embedding": lambda m, x: m.table(x[:, 0, :, 0].argmax(1)),
    "compared": lambda m, x: ((x > 0.3) & (x <= m.offset) | (x == x.amax((2, 3), keepdim=True)), (x != 0) ^ (x < -1)),
    "compared by methods": lambda m, x: (
        x.ge(0).logical_and(x.lt(1)),
        ~x.gt(0.5),
        torch.ne(x, 1),
        x.eq(0).logical_not(),
    ),
    "compared integers": lambda m, x: (x.argmax(1) >= 2, x.argmax(1) == x[:, :1].argmax(1), x.argmax(1) < 1.5),
    "where": lambda m, x: torch.where(x > 0, x, 2.0) + torch.where(x < m.offset, m.offset, x) + x.where(x > -1, 0.5),
    "masked": lambda m, x: x.masked_fill(x < 0, 1.5) + m.same(x * 1).masked_fill_(x > 1, 0.0),
    "constants on the left": lambda m, x: torch.where(
        (torch.arange(9) > 3) & (x > 0) | (torch.arange(9) == 1) ^ (x < -1),
        (torch.arange(9) + 2) // (x.abs() + 1),
        (torch.arange(9) + 0.7) % (x.abs() + 1) - (m.weight[0].abs() + 1) ** x,
    ),
    "angles": lambda m, x: (
        torch.atan(x) + (x / 4).tan() + torch.acos(x.clamp(-0.9, 0.9)) - torch.asin(x.clamp(-0.9, 0.9))
    ),
    "not a number": lambda m, x: torch.isnan(x).logical_or(x.isnan()),
    "einsum": lambda m, x: (torch.einsum("nchw,nchv->ncwv", x, x[..., :2]), torch.einsum("nchw,c->nhw", [x, m.weight])),
    "products": lambda m, x: (x.prod(1), torch.prod(x[..., :2], -1, keepdim=True), x.logsumexp((1, 2))),
    "spread": lambda m, x: (x.std((2, 3)), x.var(1, keepdim=True), torch.var(x, (1, 2), correction=0), x.std(1, False)),
    "norms": lambda m, x: (x.norm(dim=1), x.norm(1, (2, 3)), torch.linalg.vector_norm(x, 2, (1, 2), True)),
    "rms_norm": lambda m, x: F.rms_norm(x, (9,)) + F.rms_norm(x, (7, 9), eps=1e-3),
    "shrink": lambda m, x: F.softshrink(x, 0.3) + F.hardshrink(x, 0.4) + F.celu(x, 0.7).swapdims(2, 2),
    "flip": lambda m, x: x.flip(3) + torch.flip(x, (1, 2)) + x.flip(1, -1),
    "movedim": lambda m, x: torch.movedim(x, 1, -1)[..., :3].moveaxis((1, 2), (2, 1)),
    "threshold": lambda m, x: F.threshold(x, 0.1, 0.25) + F.logsigmoid(x) + F.tanhshrink(x) + F.rrelu(x),
    "counted": lambda m, x: ((x > 0).sum((2, 3)), (x > 0).any(1), (x > 3).all((2, 3), True), x.argmax(1).sum(1)),
    "topk": lambda m, x: (*x.topk(3), *x.topk(2, 2, largest=False), torch.topk(x, 1)[0]),
    "sort": lambda m, x: (*x.sort(2), *torch.sort(x, dim=-1, descending=True), x.argsort(1)),
    "gather": lambda m, x: (
        x.gather(1, x.argmax(1, keepdim=True)) + torch.gather(x, 2, x.argsort(2)[:, :, :3]).sum((2,), True)
    ),
    "take_along_dim": lambda m, x: torch.take_along_dim(x, x.argmax(3, keepdim=True), 3),
    "index_select": lambda m, x: x.index_select(1, m.places) + torch.index_select(x, 2, m.places)[:, :1, :1],
    "index tensor": lambda m, x: x[:, m.places] + x[:, [-1, 0, 2]] + x[..., m.places][:, 1:, :, :1],
    "index tensor beside others": lambda m, x: (x[:, m.places, 0, 1:], x[:, None, m.places], x[:, 1, ..., m.places]),
    "index tensors": lambda m, x: (x[:, m.places, [6, 0, 3]], x[:, 1:, m.places, m.places[:, None] + 1]),
    "index tensors apart": lambda m, x: x[:, m.places, 2:, m.places].permute(1, 0, 2),
    "index of a new dimension": lambda m, x: x[:, None, m.places.view(3, 1), 1],
    "floor_divide": lambda m, x: (x.flatten(1).argmax(1) // 9, (x.argmax(1) - 2) // 2, x // 0.3, 7.0 // (x.abs() + 1)),
    "rounded divisions": lambda m, x: (
        torch.div(x, 0.3, rounding_mode="trunc"),
        torch.div(x.argmax(1) - 2, 2, rounding_mode="trunc"),
        torch.div(x.argmax(1) - 2, 2, rounding_mode="floor"),
    ),
    "remainder": lambda m, x: (x % 0.7, x.remainder(-0.4), (x.argmax(1) - 2) % 3, torch.fmod(x, 0.5), x % m.offset),
    "in place arithmetic": lambda m, x: m.more(x.clone()),
    "cumsum": lambda m, x: (x.cumsum(1), torch.cumsum(x, -1), (x > 0).cumsum(2)),
    "one_hot": lambda m, x: F.one_hot(x.argmax(1), 4).float(),
    "bounds that are computed": lambda m, x: x.clamp(m.offset, m.offset + 1) + torch.clamp(x, max=m.offset, min=None),
    "peaks": lambda m, x: decoded(x, 5),
    "grid_sample": lambda m, x: (
        F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False)
        + F.grid_sample(x, x[:, 2:].permute(0, 2, 3, 1), "nearest", "border", True)
    ),
    "to another dtype": lambda m, x: x.argmax(1).float() + x.to(torch.float32)[:, 0],
}


class _Change(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        z = y
        y += 1
        y -= 0.5
        y *= 3
        y /= 2
        return z


class _More(nn.Module):
    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        z, mask = y, y > 0
        other = mask
        y //= 0.3
        y %= 2
        y **= 2
        mask &= z < 3
        mask |= z > 4
        return z, other


def se(channels: int) -> nn.Module:
    squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.SiLU(True))
    expand = nn.Sequential(nn.Conv2d(2, channels, 1), nn.Hardsigmoid(inplace=True))
    return Call(lambda m, x: x * m.expand(m.squeeze(x)), squeeze=squeeze, expand=expand)


def hooked(layer: nn.Module) -> nn.Module:
    """A layer with hooks that change its input and output, and one whose hook returns nothing."""
    layer.register_forward_pre_hook(lambda module, args: args[0] * 2)
    layer.register_forward_hook(lambda module, args, result: None)
    layer.register_forward_hook(lambda module, args, result: result.sigmoid() + args[0][:, :, :1, :1])
    return nn.Sequential(layer, nn.ReLU())


MODULES: dict[str, Callable[[], nn.Module]] = {
    "activations": lambda: nn.Sequential(nn.Hardswish(True), nn.SiLU(), nn.GELU(), nn.Mish(), nn.ELU(), nn.Softplus()),
    "bounded": lambda: nn.Sequential(nn.ReLU6(True), nn.Hardtanh(-0.5, 0.5), nn.LeakyReLU(0.1, True), nn.Tanh()),
    "prelu layer": lambda: nn.Sequential(conv(4, 6, 3), nn.PReLU(6), nn.PReLU()),
    "paddings": lambda: nn.Sequential(nn.ZeroPad2d(1), nn.ReflectionPad2d((1, 2, 0, 1)), nn.ReplicationPad2d(1)),
    "upsamples": lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.UpsamplingBilinear2d(scale_factor=2)),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, bias=False),
    "transposed and normalized": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 2, 2), nn.BatchNorm2d(3), nn.ReLU()),
    "pixel shuffle layer": lambda: nn.Sequential(conv(4, 8, 1), nn.PixelShuffle(2), nn.PixelUnshuffle(2)),
    "channel shuffle layer": lambda: nn.ChannelShuffle(2),
    "normalizations": lambda: nn.Sequential(
        nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm2d(4)
    ),
    "weights of weights": lambda: nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(conv(4, 6, 3)), nn.RMSNorm(7), nn.BatchNorm2d(6)
    ),
    "hooks": lambda: hooked(conv(4, 4, 3)),
    "layer norm": lambda: nn.LayerNorm((7, 9)),
    "head": lambda: nn.Sequential(nn.Flatten(), nn.Linear(252, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "linear on maps": lambda: nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)),
    "normalized by a function": lambda: Call(
        lambda m, x: F.batch_norm(m.conv(x), m.bn.running_mean, m.bn.running_var, m.bn.weight, eps=1e-3).relu(),
        conv=conv(4, 4, 3, bias=False),
        bn=nn.BatchNorm2d(4),
    ),
    "reflecting": lambda: nn.Sequential(conv(4, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)),
    "replicating": lambda: conv(4, 4, 3, padding=(2, 1), padding_mode="replicate"),
    "circular layer": lambda: conv(4, 4, (3, 5), padding="same", padding_mode="circular"),
    "squeeze and excite": lambda: se(4),
    "pools": lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)),
    "pyramid": lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, 6)), nn.AdaptiveMaxPool2d((1, 3))),
    "unflatten layer": lambda: nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (9, 7)), nn.Softmax(1)),
    "one dimension": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(4, 6, 3, 2),
        nn.BatchNorm1d(6),
        nn.MaxPool1d(2),
        nn.AvgPool1d(2),
        nn.AdaptiveAvgPool1d(2),
    ),
    "three dimensions": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 3, (2, 3, 3)), nn.BatchNorm3d(3), nn.AvgPool3d((1, 2, 2))
    ),
}


def operator_network(kind: str) -> nn.Module:
    """Return the network of this name in `FUNCTIONS` or `MODULES`, with fresh weights."""
    torch.manual_seed(1)
    if kind in MODULES:
        return MODULES[kind]()
    modules = {"change": _Change(), "more": _More(), "same": nn.Identity(), "line": nn.Conv1d(4, 3, 3, padding=1)}
    return Call(FUNCTIONS[kind], table=nn.Embedding(9, 5), **modules)
