"""Load the weights of a classifier into the backbone of a detector."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from irepdeploy.console import log
from irepdeploy.detect.detector import Detector
from irepdeploy.errors import CheckpointError, InputError, counted
from irepdeploy.network.checkpoint import load, read_weights
from irepdeploy.network.state_dict import fitted_to
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.insert import silence
from irepdeploy.reparam.origin import FUSED, Origin, origin_of

__all__ = ["load_backbone"]

_PART = "backbone."
_SHOWN = 5


def load_backbone(net: nn.Module, file: str | os.PathLike[str]) -> None:
    """Load the weights of a detector's backbone from a file, in place.

    If the file has the same branches, they are loaded too. Otherwise its fused weights, or those of a plain network,
    are loaded into the convolutions, and the branches of `net` are initialized to zero, so that the maps in eval mode
    equal those of the file. Tensors that do not belong to the backbone, such as the classifier, are logged.

    Args:
        net: A detector, with or without branches in its backbone; it is changed in place.
        file: A checkpoint, or a state dict such as torchvision's.

    Raises:
        InputError: The file is missing, or `net` has no backbone.
        CheckpointError: Weights of the backbone are missing or have another shape.
    """
    if not isinstance(net, Detector):
        raise InputError(f"{type(net).__name__} has no backbone to load", where="backbone.weights")
    state, origin = read_weights(os.path.expanduser(file))
    expected: dict[str, Tensor] = dict(net.backbone.state_dict())
    found, _ = fitted_to(expected, state)
    if not set(expected) <= set(found):
        if origin is not None:
            state = _plain(os.path.expanduser(file), origin)
        expected, blocks = _without_branches(net)
        found, _ = fitted_to(expected, state)
        silence(net, blocks)
    _check(expected, found, file)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(found[name])
    left = sorted(set(found) - set(expected))
    if left:
        shown = ", ".join([*left[:_SHOWN], *(["..."] if len(left) > _SHOWN else [])])
        log(f"{file}: {counted(len(left), 'tensor')} outside the backbone ignored ({shown})")


def _plain(file: str, origin: Origin) -> dict[str, Tensor]:
    """Return the fused weights of a checkpoint, with every bias in a batch normalization that is otherwise neutral."""
    net = load(file)
    fused = fuse(net) if origin.layers and origin.state != FUSED else net
    state = fused.state_dict()
    for layer in origin_of(fused).layers:
        bias = None if layer.bn is None or layer.bias else state.pop(f"{layer.name}.bias", None)
        if bias is not None:
            ones = torch.ones_like(bias)
            # 1e-5 is the epsilon of torch's normalizations, so the scale is 1 / sqrt(1 - 1e-5 + 1e-5) = 1.
            neutral = {"weight": ones, "bias": bias, "running_mean": 0 * ones, "running_var": ones - 1e-5}
            state.update({f"{layer.bn}.{key}": value for key, value in neutral.items()})
    return state


def _without_branches(net: Detector) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of the backbone under their names without branches, and the names of its blocks."""
    state = net.backbone.state_dict()
    layers = [layer for layer in origin_of(net).layers if layer.name.startswith(_PART)]
    names = {}
    for layer in layers:
        name = layer.name.removeprefix(_PART)
        names[f"{name}.fixed.conv."] = f"{name}."
        if layer.bn is not None:
            names[f"{name}.fixed.bn."] = f"{layer.bn.removeprefix(_PART)}."
    blocks = tuple(f"{layer.name.removeprefix(_PART)}." for layer in layers)
    found = {}
    for name, tensor in state.items():
        part = next((part for part in names if name.startswith(part)), None)
        if part is not None:
            found[names[part] + name.removeprefix(part)] = tensor
        elif not name.startswith(blocks):
            found[name] = tensor
    return found, [layer.name for layer in layers]


def _check(expected: dict[str, Tensor], found: dict[str, Tensor], file: object) -> None:
    missing = [name for name in expected if name not in found]
    if missing:
        shown = ", ".join([*missing[:_SHOWN], *(["..."] if len(missing) > _SHOWN else [])])
        raise CheckpointError(
            f"{counted(len(missing), 'tensor')} of {len(expected)} of the backbone missing: {shown}",
            where=str(file),
            hint="give the weights of the same network, such as resnet50 for faster_rcnn_resnet50_fpn",
        )
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            shapes = tuple(tensor.shape), tuple(found[name].shape)
            raise CheckpointError(f"{name}: expected {shapes[0]}, got {shapes[1]}", where=str(file))
