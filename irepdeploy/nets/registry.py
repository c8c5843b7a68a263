"""The one registry of networks: a name, a builder, and what it reads."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.nets import resnet, vgg
from irepdeploy.origin import Origin, set_origin

__all__ = ["NETS", "Net", "build"]


@dataclass(frozen=True)
class Net:
    """A network of the registry.

    Args:
        builder: takes `num_classes` and the keywords in `args`.
        input_shape: (C, H, W) that it is built for; other sizes work as far as its strides allow.
        num_classes: default number of classes.
    """

    builder: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    num_classes: int
    args: dict[str, Any] = field(default_factory=dict)


NETS: dict[str, Net] = {
    "vgg6": Net(vgg.VGG, (1, 16, 16), 10, {"stages": ((16, 16), (32, 32), (64, 64))}),
    "vgg16": Net(vgg.VGG, (3, 32, 32), 10, {"stages": vgg.VGG16_STAGES, "bias": True}),
    "resnet18_cifar": Net(resnet.ResNet, (3, 32, 32), 10, {"block": "basic", "depths": (2, 2, 2, 2), "stem": "cifar"}),
    "resnet18": Net(resnet.ResNet, (3, 224, 224), 1000, {"block": "basic", "depths": (2, 2, 2, 2)}),
    "resnet34": Net(resnet.ResNet, (3, 224, 224), 1000, {"block": "basic", "depths": (3, 4, 6, 3)}),
    "resnet50": Net(resnet.ResNet, (3, 224, 224), 1000, {"block": "bottleneck", "depths": (3, 4, 6, 3)}),
}


def build(name: str, /, **args: Any) -> nn.Module:
    """Build a network of the registry, in train mode with fresh weights from torch's global generator.

    Args:
        name: a name in `NETS`.
        args: `num_classes`, `input_shape` (C, H, W; its C is the number of input channels), and the builder's own.

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
