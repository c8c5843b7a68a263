"""The one registry of networks: a name, a builder, what it reads, and the branches that it is trained with."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.nets import repvgg, resnet, vgg
from irepdeploy.origin import Origin, set_origin
from irepdeploy.reparam.insert import Branches, insert_branches

__all__ = ["NETS", "OWN", "Net", "build", "build_plain"]

OWN = "own"


@dataclass(frozen=True)
class Net:
    """A network of the registry.

    Args:
        builder: builds the plain network; takes `num_classes`, `in_channels` and the keywords in `args`.
        input_shape: (C, H, W) that it is built for; other sizes work as far as its strides allow.
        num_classes: default number of classes.
        branches: a preset or a published Architecture by name, or None for a plain network.
        least: the smallest height and width that it reads.
    """

    builder: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    num_classes: int
    args: dict[str, Any] = field(default_factory=dict)
    branches: str | None = None
    least: int = 1


_SMALL, _LARGE = (3, 32, 32), (3, 224, 224)
_VGG16 = {"stages": vgg.VGG16_STAGES, "bias": True}
_RESNET18 = {"block": "basic", "depths": (2, 2, 2, 2)}
_RESNET34 = {"block": "basic", "depths": (3, 4, 6, 3)}
_RESNET50 = {"block": "bottleneck", "depths": (3, 4, 6, 3)}


def _repvgg(depths: Sequence[int], a: float, b: float, groups: int = 1) -> Net:
    args = {"depths": depths, "widths": (a, b), "groups": groups}
    return Net(repvgg.RepVGG, _LARGE, 1000, args, branches="repvgg")


NETS: dict[str, Net] = {
    "vgg6": Net(vgg.VGG, (1, 16, 16), 10, {"stages": ((16, 16), (32, 32), (64, 64))}, least=8),
    "vgg16": Net(vgg.VGG, _SMALL, 10, _VGG16, least=32),
    "vgg16_acnet": Net(vgg.VGG, _SMALL, 10, {"stages": vgg.VGG16_STAGES, "hidden": 512}, least=32),
    "resnet18_cifar": Net(resnet.ResNet, _SMALL, 10, {**_RESNET18, "stem": "cifar"}),
    "resnet18": Net(resnet.ResNet, _LARGE, 1000, _RESNET18),
    "resnet34": Net(resnet.ResNet, _LARGE, 1000, _RESNET34),
    "resnet50": Net(resnet.ResNet, _LARGE, 1000, _RESNET50),
    "irep_vgg16": Net(vgg.VGG, _SMALL, 10, _VGG16, "ireps", least=32),
    "irep_resnet18_cifar": Net(resnet.ResNet, _SMALL, 10, {**_RESNET18, "stem": "cifar"}, "ireps-resnet-cifar"),
    "irep_resnet18": Net(resnet.ResNet, _LARGE, 1000, _RESNET18, "irep-resnet18"),
    "irep_resnet34": Net(resnet.ResNet, _LARGE, 1000, _RESNET34, "irep-resnet34"),
    "irep_resnet50": Net(resnet.ResNet, _LARGE, 1000, _RESNET50, "irep-resnet50"),
    "repvgg_a0": _repvgg(repvgg.A_DEPTHS, 0.75, 2.5),
    "repvgg_a1": _repvgg(repvgg.A_DEPTHS, 1, 2.5),
    "repvgg_a2": _repvgg(repvgg.A_DEPTHS, 1.5, 2.75),
    "repvgg_b0": _repvgg(repvgg.B_DEPTHS, 1, 2.5),
    "repvgg_b1": _repvgg(repvgg.B_DEPTHS, 2, 4),
    "repvgg_b1g2": _repvgg(repvgg.B_DEPTHS, 2, 4, groups=2),
    "repvgg_b1g4": _repvgg(repvgg.B_DEPTHS, 2, 4, groups=4),
    "repvgg_b2": _repvgg(repvgg.B_DEPTHS, 2.5, 5),
    "repvgg_b2g4": _repvgg(repvgg.B_DEPTHS, 2.5, 5, groups=4),
    "repvgg_b3": _repvgg(repvgg.B_DEPTHS, 3, 5),
    "repvgg_b3g4": _repvgg(repvgg.B_DEPTHS, 3, 5, groups=4),
}


def build(name: str, /, *, branches: Branches | None = OWN, **args: Any) -> nn.Module:
    """Build a network of the registry, in train mode with fresh weights from torch's global generator.

    Args:
        name: a name in `NETS`.
        branches: "own": those that it has in `NETS`, if any; None: the plain network, as `build_plain` gives it; else a
            preset or published Architecture by name, branch names, or an Architecture.
        args: `num_classes`, `input_shape` (C, H, W; its C is the number of input channels), and the builder's own.

    Raises:
        ModelError: no such network, or arguments that it does not take.
        ArchitectureError: no such branches, or they do not fit the network.
    """
    plain = build_plain(name, **args)
    chosen = NETS[name].branches if isinstance(branches, str) and branches == OWN else branches
    if chosen is None:
        return plain
    return insert_branches(plain, chosen)


def build_plain(name: str, /, **args: Any) -> nn.Module:
    """Build a network of the registry as `build` does, but without branches.

    Raises:
        ModelError: no such network, or arguments that it does not take.
    """
    if name not in NETS:
        near = difflib.get_close_matches(name, NETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(NETS)}"
        raise ModelError(f"no network named {name!r}", hint=hint)
    net = NETS[name]
    given = dict(args)
    shape = tuple(given.pop("input_shape", net.input_shape))
    if len(shape) == 3 and min(shape[1:]) < net.least and "stages" not in given:
        raise ModelError(
            f"images of {shape[1]}x{shape[2]} are too small for it",
            where=name,
            hint=f"at least {net.least}x{net.least}",
        )
    try:
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise TypeError(f"input_shape {shape!r} is not (C, H, W)")
        settings = {"num_classes": net.num_classes, **net.args, **given, "in_channels": shape[0]}
        inspect.signature(net.builder).bind(**settings)
        model = net.builder(**settings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot build this network: {error}", where=name) from error
    return set_origin(model, Origin(net=name, args=_plain(args), input_shape=shape))


def _plain(value: Any) -> Any:
    """The same arguments as JSON would give them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
