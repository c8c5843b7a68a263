"""Build a network of the registry by its name."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from irepdeploy.errors import IrepdeployError, ModelError, choices, first_line
from irepdeploy.network.libraries import build_library_network, library_name
from irepdeploy.network.nets.catalogue import NETS, Net
from irepdeploy.reparam.insert import Branches, insert_branches
from irepdeploy.reparam.origin import Origin, set_origin

__all__ = ["NETS", "OWN", "Net", "build", "build_plain"]

OWN = "own"


def build(name: str, /, *, branches: Branches | None = OWN, **args: Any) -> nn.Module:
    """Build a network of the registry in train mode, with weights initialized from torch's global generator.

    Args:
        name: A name in `NETS`, or of a network of a library, such as ``timm/resnet18``.
        branches: "own" inserts the branches listed in `NETS`, if any. None builds the plain network. Otherwise the name
            of a preset or of a published Architecture, a list of branch names, or an Architecture.
        args: `num_classes`, `input_shape` as (C, H, W), and the builder's own arguments.

    Returns:
        The network, with an Origin.

    Raises:
        ModelError: There is no such network, or it does not accept these arguments.
        ArchitectureError: The branches are unknown or do not fit the network.
    """
    plain = build_plain(name, **args)
    chosen = NETS[name].branches if isinstance(branches, str) and branches == OWN else branches
    if chosen is None:
        return plain
    where = NETS[name].where if name in NETS else "*"
    return insert_branches(plain, chosen, where)


def build_plain(name: str, /, **args: Any) -> nn.Module:
    """Build a network of the registry as `build` does, but without branches.

    Raises:
        ModelError: There is no such network, or it does not accept these arguments.
    """
    if not isinstance(name, str):
        raise ModelError(f"expected the name of a network, got {name!r:.80}")
    if library_name(name) is not None:
        return build_library_network(name, args)
    if name not in NETS:
        hint = choices(name, NETS)
        own = "a network of your own is package.module:factory, such as mynet:Net"
        raise ModelError(f"unknown network {name!r}", hint=f"{hint}; {own}" if hint.startswith("one") else hint)
    net = NETS[name]
    given = dict(args)
    shape = tuple(given.pop("input_shape", net.input_shape))
    if len(shape) == 3 and min(shape[1:]) < net.least and "stages" not in given:
        raise ModelError(f"expected images of at least {net.least}x{net.least}, got {shape[1]}x{shape[2]}", where=name)
    if len(shape) == 3 and any(size % net.multiple for size in shape[1:]) and "stem" not in given:
        raise ModelError(
            f"expected height and width in multiples of {net.multiple}, got {shape[1]}x{shape[2]}", where=name
        )
    try:
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise TypeError(f"expected input_shape (C, H, W), got {shape!r}")
        settings = {"num_classes": net.num_classes, **net.args, **given, "in_channels": shape[0]}
        inspect.signature(net.builder).bind(**settings)
        model = net.builder(**settings)
    except IrepdeployError:
        raise
    except Exception as error:  # a builder raises anything on arguments of a wrong type or size
        raise ModelError(f"cannot build this network: {first_line(error)}", where=name) from error
    outputs = getattr(model, "head_names", Origin.output_names)
    return set_origin(model, Origin(net=name, args=_plain(args), input_shape=shape, output_names=outputs))


def _plain(value: Any) -> Any:
    """Return the arguments as they would be after a round trip through JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
