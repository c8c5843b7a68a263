"""Save and load a network, in train or fused state, as one self-describing file.

The file is a ``torch.save`` archive of plain containers: format and version, the Origin (the network, the inserted
branches, the inputs), the state dict, and the versions of the writer. It contains its own digest, which is checked on
every load. Loading runs no code of the file (``weights_only=True``).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import irepdeploy
from irepdeploy.errors import CheckpointError, InputError, ModelError, counted
from irepdeploy.files import read_bytes, write_bytes
from irepdeploy.network.archive import pack, unpack
from irepdeploy.network.exported_program import is_program, load_program
from irepdeploy.network.factory import built, is_factory, remembered
from irepdeploy.network.nets import build_plain
from irepdeploy.network.state_dict import fitted, is_safetensors, is_usual, read_legacy, read_safetensors, state_dicts
from irepdeploy.network.weights import kind_refused, load_weights, no_larger_than
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import FUSED, InsertedLayer, Origin, origin_of, set_origin
from irepdeploy.reparam.structure import copied, rebuild
from irepdeploy.reparam.wrappers import unwrapped
from irepdeploy.runtime.given_inputs import example_specs

__all__ = ["is_foreign", "load", "read", "read_weights", "save"]

_FORMAT = "irepdeploy.checkpoint"
_VERSION = 1


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    inputs: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Save a network to a file, which is written completely or not at all.

    Args:
        model: A network of the registry, or of any other class, which is then needed to load it. Wrappers such as
            DistributedDataParallel or torch.compile are removed.
        path: The file to write.
        factory: Function that builds a foreign class, as ``package.module:function``. If `load` cannot build the
            network, its error names this function.
        input_shape: Shape (C, H, W) of the input of a foreign network.
        inputs: Example inputs instead of `input_shape`, for networks with several inputs or with other inputs than
            float32 (N, ...): a tensor or array, several in the order of ``forward``, or a mapping by name. Their names,
            sizes and types are stored, and `export_model`, `verify` and `bench` use them.
        extra: Plain containers and tensors to store as well, such as optimizer state or metrics.

    Returns:
        The path of the file.

    Raises:
        RunError: The disk is full.
        OutputError: The path cannot be written.
        ModelError: The network has state other than dense tensors.
        CheckpointError: The Origin of the network has a field of a wrong type or size.
        InputError: `input_shape` is not the shape of one input, `inputs` are not arrays, or `extra` contains objects
            other than plain containers and tensors.
    """
    model = unwrapped(model)
    # Integers that are too small are refused below, with the other fields of the Origin.
    if input_shape is not None and not (
        isinstance(input_shape, list | tuple) and all(isinstance(size, int) for size in input_shape)
    ):
        hint = "for example (3, 224, 224); for a network of several inputs, give examples: inputs=(x, y)"
        raise InputError(f"expected the sizes of one input, got {input_shape!r}", where="input_shape", hint=hint)
    if input_shape is not None and inputs is not None:
        raise InputError("input_shape and inputs both describe what the network takes", hint="give one of them")
    origin = origin_of(model)
    origin = replace(origin, layers=_layers_now(model, origin), factory=origin.factory if factory is None else factory)
    if input_shape is not None:
        origin = replace(origin, input_shape=tuple(input_shape), inputs=())
    elif inputs is not None:
        origin = origin.taking(example_specs(model, inputs))
    described = origin.to_dict()
    # Do not write a file that `load` would refuse.
    Origin.from_dict(described, where=path)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "origin": described,
        "state": _tensors(model),
        "extra": dict(extra or {}),
        "written_by": {
            "irepdeploy": irepdeploy.__version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    return write_bytes(path, pack(content))


def load(path: str | os.PathLike[str], *, model: Callable[[], nn.Module] | nn.Module | None = None) -> nn.Module:
    """Load the network of a checkpoint, in eval mode, on the CPU.

    Args:
        path: A checkpoint, or a program saved by ``torch.export``. With `model`, also a state dict saved by torch or
            safetensors, either alone or inside the checkpoint of a training script.
        model: For a foreign class, the network before branches were inserted, or a function that builds it. It can be
            omitted if the factory of the checkpoint was named before, with ``--model`` or in a recipe.

    Raises:
        InputError: The file is missing.
        CheckpointError: The file is not a checkpoint, is damaged, contains code, does not fit the network, or needs
            `model`.
        ModelError: `model` fails to build the network.
        MissingError: The file needs a library that is not installed: that of the network, or safetensors.
    """
    content = _content(path)
    if is_program(content):
        return load_program(content, path)
    if not _is_ours(content):
        return _from_state_dict(content, path, model)
    content = _checked(content, path)
    origin = Origin.from_dict(content["origin"], where=path)
    if model is None:
        model = remembered(origin)
    if model is not None:
        base = _base(model, origin, path)
    elif origin.net is not None:
        try:
            with no_larger_than(content["state"], path):
                base = build_plain(origin.net, **origin.args)
        except ModelError as error:
            raise CheckpointError(
                f"needs a network that this version of irepdeploy does not have: {error.what}", where=path
            ) from None
    else:
        factory = origin.factory if is_factory(origin.factory) else "package.module:factory"
        raise CheckpointError(
            "contains the weights of a custom class, which cannot be built from the file alone",
            where=path,
            hint=f"add --model {factory}, or ird.load(path, model=factory)",
        )
    try:
        network = rebuild(base, origin) if origin.layers else base
    except InputError as error:
        raise CheckpointError(f"does not fit the network: {error.line}", where=path) from None
    load_weights(network, content["state"], path)
    return set_origin(network, origin).eval()


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], Origin | None]:
    """Read a state dict without building a network.

    Returns:
        The state dict and the Origin of a checkpoint, or the first state dict of any other file and None.

    Raises:
        InputError: The file is missing.
        CheckpointError: The file contains no state dict, is damaged, or contains code.
    """
    content = _content(path)
    if _is_ours(content):
        checked = _checked(content, path)
        return checked["state"], Origin.from_dict(checked["origin"], where=path)
    found = {} if is_program(content) else state_dicts(content)
    if not found:
        raise CheckpointError("a file without a state dict", where=path, hint="save(net.state_dict(), path)")
    state = next(iter(found.values()))
    _check_tensors(state, path)
    return state, None


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the content of a checkpoint file, and check its structure.

    Raises:
        InputError: The file is missing.
        CheckpointError: The file is not a checkpoint, is damaged, or contains code.
    """
    content = _content(path)
    if not _is_ours(content):
        raise CheckpointError(
            "a torch file, but not an irepdeploy checkpoint",
            where=path,
            hint="load the weights into your network and write it with irepdeploy.save(net, path)",
        )
    return _checked(content, path)


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Return whether a file describes no network that irepdeploy can build, so that it needs a factory."""
    content = _content(path)
    return not _is_ours(content) or _checked(content, path)["origin"].get("net") is None


def _content(path: str | os.PathLike[str]) -> Any:
    """Return the content of a file of weights, or the bytes of a program that torch exported."""
    raw = read_bytes(path, "checkpoint")
    if not raw:
        raise CheckpointError("the file is empty", where=path, hint="write it again")
    if raw[:2] == b"PK":
        return raw if is_program(raw) else unpack(raw, where=path, hint="copy or write it again")
    if is_safetensors(raw):
        return read_safetensors(raw, path)
    content = read_legacy(raw, path)
    if content is None:
        raise _no_archive(raw, path)
    return content


def _is_ours(content: object) -> bool:
    # Check exact types, since an object of another class could claim to equal anything.
    return type(content) is dict and type(content.get("format")) is str and content["format"] == _FORMAT


def _checked(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    version = content.get("version")
    if type(version) is not int or version != _VERSION:
        shown = version if type(version) is int else type(version).__name__
        raise CheckpointError(
            f"expected checkpoint version {_VERSION}, got {shown}", where=path, hint="update irepdeploy"
        )
    state = content.get("state")
    well_formed = (
        all(type(content.get(part)) is dict for part in ("state", "origin", "extra"))
        and isinstance(state, dict)
        and all(type(key) is str and isinstance(value, torch.Tensor) for key, value in state.items())
    )
    if not well_formed:
        raise CheckpointError(
            "parts of the checkpoint are missing or of a wrong type", where=path, hint="write it again"
        )
    _check_tensors(content["state"], path)
    return content


def _check_tensors(state: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    for name, tensor in state.items():
        kind = kind_refused(tensor)
        if kind is not None:
            raise CheckpointError(f"expected dense weights, got a {kind} tensor: {name}", where=path)
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"declares more values than it stores: {name}", where=path)


def _from_state_dict(
    content: object, path: str | os.PathLike[str], model: Callable[[], nn.Module] | nn.Module | None
) -> nn.Module:
    """Load the state dict of a foreign file into the network that `model` builds."""
    found = state_dicts(content)
    if not found:
        raise CheckpointError(
            "a torch file without a state dict", where=path, hint="save(net.state_dict(), path), or irepdeploy.save"
        )
    place, state = next(iter(found.items()))
    if model is None:
        raise CheckpointError(
            f"a state dict: {counted(len(state), 'tensor')} such as {next(iter(state))}, without the class of the "
            "network",
            where=path,
            hint="add --model package.module:factory, a function that builds the network; in Python "
            "irepdeploy.load(path, model=factory)",
        )
    for each in found.values():
        _check_tensors(each, path)
    network = _base(model, Origin(), path)
    # An average of only the parameters, without the statistics, is not a complete network.
    whole = [key for key, each in found.items() if set(network.state_dict()) <= set(fitted(network, each)[0])]
    usual = [key for key in whole if is_usual(key)]
    if len(whole) > 1 and not usual:
        raise CheckpointError(
            f"several state dicts of this network: {', '.join(whole)}",
            where=path,
            hint=f"save the one you want: torch.save(torch.load(PATH)[{whole[0]!r}], OTHER)",
        )
    place = next(iter(usual or whole), place)
    fitting, how = fitted(network, found[place])
    load_weights(network, fitting, path)
    names = [key for key in found if key != place]
    others = [f"also in the file: {', '.join(names)}"] if names else []
    said = "; ".join(filter(None, [place, how, *others]))
    return set_origin(network, statistics=f"from the file{said and f': {said}'}").eval()


def _layers_now(model: nn.Module, origin: Origin) -> tuple[InsertedLayer, ...]:
    """Return the inserted layers, updated with the branches that are currently inactive."""
    modules = dict(model.named_modules())
    if origin.state != FUSED and not any(isinstance(module, RepBlock) for module in modules.values()):
        return ()
    layers = []
    for layer in origin.layers:
        block = modules.get(layer.name)
        off = tuple(name for name in block.branches if name not in block.active) if isinstance(block, RepBlock) else ()
        layers.append(replace(layer, off=off))
    return tuple(layers)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"state of type {type(value).__name__} cannot be saved, only tensors",
                where=name,
                hint="its module has get_extra_state; register a buffer instead",
            )
        kind = kind_refused(value)
        if kind is not None:
            raise ModelError(f"a {kind} tensor cannot be saved, only dense ones", where=name)
    return {name: _whole(tensor.detach().cpu()) for name, tensor in state.items()}


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor whose memory holds each of its values, by copying an expanded one."""
    return tensor if 0 not in tensor.stride() else tensor.contiguous()


def _base(model: Callable[[], nn.Module] | nn.Module, origin: Origin, path: str | os.PathLike[str]) -> nn.Module:
    # The caller's network must not change.
    return copied(unwrapped(model)) if isinstance(model, nn.Module) else unwrapped(built(model, origin, path))


def _no_archive(raw: bytes, path: str | os.PathLike[str]) -> CheckpointError:
    if Path(path).suffix == ".onnx" or _looks_like_onnx(raw):
        return CheckpointError(
            "expected a checkpoint, got an ONNX model", where=path, hint="`irepdeploy verify` takes ONNX models"
        )
    if raw[:1] == b"\x80":
        return CheckpointError(
            "refused: a bare pickle, which may contain code to run, not only weights",
            where=path,
            hint="load it where it was made and save it with irepdeploy.save(net, path)",
        )
    return CheckpointError("not a checkpoint", where=path, hint="irepdeploy.save and `irepdeploy train` write them")


def _looks_like_onnx(raw: bytes) -> bool:
    # Field 1 (ir_version) as a small varint, then field 2 (producer) or 7 (graph) of the protobuf.
    return len(raw) > 4 and raw[0] == 0x08 and raw[1] < 0x20 and raw[2] in (0x12, 0x3A)
