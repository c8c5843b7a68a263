"""One file for a network, in train or fused state, that says what it is.

The file is a ``torch.save`` archive of plain containers: format and version, the Origin (which network, what was
inserted, what it reads), the state dict, and versions. Loading runs no code of the file (``weights_only=True``).
"""

from __future__ import annotations

import copy
import io
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import irepdeploy
from irepdeploy.errors import ArchitectureError, CheckpointError, MissingError, ModelError
from irepdeploy.files import read_bytes, write_bytes
from irepdeploy.network.nets import build_plain
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import FUSED, InsertedLayer, Origin, origin_of, set_origin
from irepdeploy.reparam.structure import rebuild
from irepdeploy.reparam.wrappers import unwrapped

__all__ = ["load", "read", "save"]

_FORMAT = "irepdeploy.checkpoint"
_VERSION = 1


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    factory: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `model` to `path`, whole or not at all.

    Args:
        model: a network of the registry, or any network (its class is built by `factory` when it is loaded); what
            DistributedDataParallel, torch.compile and the like wrap around it is left out.
        factory: ``package.module:function`` for a foreign class; remembered for the message that `load` gives.
        input_shape: (C, H, W) that a foreign network reads.
        extra: plain containers and tensors to keep beside it (optimizer state, figures).

    Raises:
        RunError: the disk is full.
        OutputError: the place cannot be written.
        ModelError: the network keeps state that is not made of tensors.
    """
    model = unwrapped(model)
    origin = origin_of(model)
    changes: dict[str, Any] = {}
    if factory is not None:
        changes["factory"] = factory
    if input_shape is not None:
        changes["input_shape"] = tuple(input_shape)
    changes["layers"] = _layers_now(model, origin)
    origin = Origin(**{**vars(origin), **changes})
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "origin": origin.to_dict(),
        "state": _tensors(model),
        "extra": dict(extra or {}),
        "written_by": {
            "irepdeploy": irepdeploy.__version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    # Through memory, so that the file itself is written by the one function that never leaves half of it.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write_bytes(path, buffer.getvalue())


def load(
    path: str | os.PathLike[str],
    *,
    model: Callable[[], nn.Module] | nn.Module | None = None,
) -> nn.Module:
    """The network in the file, in eval mode, on the CPU.

    Args:
        path: a checkpoint.
        model: for a foreign class: the network as it was before branches were inserted, or a function that builds it.

    Raises:
        InputError: the file is missing.
        CheckpointError: it is no checkpoint, is damaged, holds code, or needs `model`.
    """
    content = read(path)
    origin = Origin.from_dict(content["origin"], where=path)
    if model is not None:
        base = _built(model, path)
        if not isinstance(base, nn.Module):
            raise CheckpointError(f"the model factory gave a {type(base).__name__}, not a torch.nn.Module", where=path)
    elif origin.net is not None:
        try:
            base = build_plain(origin.net, **origin.args)
        except ModelError as error:
            raise CheckpointError(
                f"needs a network that this irepdeploy does not have: {error.what}", where=path
            ) from None
    else:
        factory = origin.factory or "package.module:factory"
        raise CheckpointError(
            "holds weights of a class that is not irepdeploy's, which a file cannot rebuild",
            where=path,
            hint=f"add --model {factory}, or ird.load(path, model=factory)",
        )
    try:
        network = rebuild(base, origin) if origin.layers else base
    except ArchitectureError as error:
        raise CheckpointError(f"does not fit the network: {error.line}", where=path) from None
    _load_state(network, content["state"], path)
    return set_origin(network, origin).eval()


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a checkpoint file, checked for its form.

    Raises:
        InputError: the file is missing.
        CheckpointError: it is no checkpoint, is damaged, or holds code.
    """
    raw = read_bytes(path, "checkpoint")
    if not raw:
        raise CheckpointError("the file is empty", where=path, hint="write it again")
    try:
        with warnings.catch_warnings():
            # torch warns about archives of other kinds (TorchScript) before it refuses them.
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on a damaged or hostile file
        raise _unreadable(error, raw, path) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(
            "a torch file, but no irepdeploy checkpoint",
            where=path,
            hint="load the weights into your network and write it with irepdeploy.save(net, path)",
        )
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"checkpoint version {content.get('version')!r}; this irepdeploy reads {_VERSION}",
            where=path,
            hint="update irepdeploy",
        )
    state, origin, extra = content.get("state"), content.get("origin"), content.get("extra")
    well_formed = (
        isinstance(state, dict)
        and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())
        and isinstance(origin, dict)
        and isinstance(extra, dict)
    )
    if not well_formed:
        raise CheckpointError("a checkpoint with parts missing or of a wrong type", where=path, hint="write it again")
    return content


def load_model_factory(spec: str) -> Callable[[], nn.Module]:
    """The function that ``package.module:factory`` names; this runs the user's own code because the user names it.

    Raises:
        MissingError: no such module.
        CheckpointError: no such function in it.
    """
    import importlib
    import sys

    module_name, _, function = spec.partition(":")
    if not module_name or not function:
        raise CheckpointError("--model takes package.module:factory", where=spec)
    # As `python -m` does: a module in the folder that the user stands in is found.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise MissingError(f"cannot import it: {error}", where=spec, hint="is its folder on PYTHONPATH?") from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise CheckpointError(f"{module_name} has no function {function!r}", where=spec)
    return factory


def _layers_now(model: nn.Module, origin: Origin) -> tuple[InsertedLayer, ...]:
    """What was inserted, with the branches that take no part as they are now."""
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
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def _built(model: Callable[[], nn.Module] | nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    if isinstance(model, nn.Module):
        # The network given is not to be written over.
        return copy.deepcopy(model)
    try:
        return model()
    except Exception as error:  # whatever a user's factory raises
        name = getattr(model, "__qualname__", repr(model))
        text = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"the model factory {name} raised {type(error).__name__}: {text}", where=path) from error


def _unreadable(error: Exception, raw: bytes, path: str | os.PathLike[str]) -> CheckpointError:
    text = str(error)
    if Path(path).suffix == ".onnx" or _looks_like_onnx(raw):
        return CheckpointError(
            "an ONNX model where a checkpoint is due", where=path, hint="`irepdeploy verify` takes ONNX models"
        )
    asks_for_code = "Weights only load failed" in text or ("nsupported" in text and "global" in text.lower())
    if asks_for_code and (raw[:2] == b"PK" or raw[:1] == b"\x80"):
        return CheckpointError(
            "refused: the file asks for code to be run, not only for weights to be read",
            where=path,
            hint="load it where it was made and write it with irepdeploy.save(net, path)",
        )
    if raw[:2] == b"PK":
        return CheckpointError(
            "damaged: the archive is truncated or was changed", where=path, hint="copy or write it again"
        )
    return CheckpointError("not a checkpoint", where=path, hint="irepdeploy.save and `irepdeploy train` write them")


def _looks_like_onnx(raw: bytes) -> bool:
    # Field 1 (ir_version) as a small varint, then field 2 (producer) or 7 (graph) of the protobuf.
    return len(raw) > 4 and raw[0] == 0x08 and raw[1] < 0x20 and raw[2] in (0x12, 0x3A)


def _load_state(network: nn.Module, state: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(state) - set(expected))
    if missing or extra:
        parts = [
            f"{len(names)} {what} ({names[0]})"
            for what, names in (("missing", missing), ("unexpected", extra))
            if names
        ]
        raise CheckpointError(f"weights do not fit the network: {', '.join(parts)}", where=path)
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise CheckpointError(
                f"weights do not fit the network: {name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}",
                where=path,
            )
    for prefix, module in network.named_modules():
        tensors = (*module.named_parameters(prefix, recurse=False), *module.named_buffers(prefix, recurse=False))
        for name, tensor in tensors:
            if name in state and tensor.dtype != state[name].dtype and state[name].is_floating_point():
                tensor.data = tensor.data.to(state[name].dtype)
    network.load_state_dict(state)
