"""Build a network of the registry by its name."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.network.nets.catalogue import NETS, Net
from irepdeploy.reparam.insert import Branches, insert_branches
from irepdeploy.reparam.origin import Origin, set_origin

__all__ = ["NETS", "OWN", "Net", "build", "build_plain"]

OWN = "own"


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
    if len(shape) == 3 and any(size % net.multiple for size in shape[1:]) and "stem" not in given:
        raise ModelError(
            f"images of {shape[1]}x{shape[2]} cannot be halved as often as it does",
            where=name,
            hint=f"height and width are multiples of {net.multiple}",
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
