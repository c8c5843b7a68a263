"""Save and load a network, in train or fused state, as one self-describing file.

The file is a ``torch.save`` archive of plain containers: format and version, the Origin (which network, what was
inserted, its inputs), the state dict, and versions. Loading runs no code of the file (``weights_only=True``).
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
    """Save a network; the file is written completely or not at all.

    Args:
        model: A network of the registry, or any other (loading it needs its class). Wrappers such as
            DistributedDataParallel or torch.compile are removed.
        path: The file to write.
        factory: ``package.module:function`` that builds a foreign class; `load` names it in its error.
        input_shape: (C, H, W) of a foreign network's input.
        extra: Plain containers and tensors to store as well (optimizer state, metrics).

    Raises:
        RunError: The disk is full.
        OutputError: The path cannot be written.
        ModelError: The network has state other than tensors.
    """
    model = unwrapped(model)
    origin = origin_of(model)
    origin = replace(
        origin,
        layers=_layers_now(model, origin),
        factory=origin.factory if factory is None else factory,
        input_shape=origin.input_shape if input_shape is None else tuple(input_shape),
    )
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
    # Through memory, because write_bytes never leaves a partial file.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write_bytes(path, buffer.getvalue())


def load(path: str | os.PathLike[str], *, model: Callable[[], nn.Module] | nn.Module | None = None) -> nn.Module:
    """Load the network of a checkpoint, in eval mode, on the CPU.

    Args:
        path: A checkpoint.
        model: For a foreign class: the network before branches were inserted, or a function that builds it.

    Raises:
        InputError: The file is missing.
        CheckpointError: The file is not a checkpoint, is damaged, contains code, or needs `model`.
    """
    content = read(path)
    origin = Origin.from_dict(content["origin"], where=path)
    if model is not None:
        base = _built(model, path)
        if not isinstance(base, nn.Module):
            raise CheckpointError(
                f"expected a torch.nn.Module from the model factory, got {type(base).__name__}", where=path
            )
    elif origin.net is not None:
        try:
            base = build_plain(origin.net, **origin.args)
        except ModelError as error:
            raise CheckpointError(
                f"needs a network that this version of irepdeploy does not have: {error.what}", where=path
            ) from None
    else:
        factory = origin.factory or "package.module:factory"
        raise CheckpointError(
            "contains the weights of a class of your own, which a file cannot rebuild",
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
    """Read the content of a checkpoint file, and check its structure."""
    raw = read_bytes(path, "checkpoint")
    if not raw:
        raise CheckpointError("the file is empty", where=path, hint="write it again")
    try:
        with warnings.catch_warnings():
            # torch warns about other archives (TorchScript) before it refuses them.
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on a damaged or hostile file
        raise _unreadable(error, raw, path) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(
            "a torch file, but not an irepdeploy checkpoint",
            where=path,
            hint="load the weights into your network and write it with irepdeploy.save(net, path)",
        )
    if content.get("version") != _VERSION:
        raise CheckpointError(
            f"expected checkpoint version {_VERSION}, got {content.get('version')!r}",
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
        raise CheckpointError(
            "parts of the checkpoint are missing or of a wrong type", where=path, hint="write it again"
        )
    return content


def load_model_factory(spec: str) -> Callable[[], nn.Module]:
    """Import the function that ``package.module:factory`` names, which runs that module's code."""
    import importlib
    import sys

    module_name, _, function = spec.partition(":")
    if not module_name or not function:
        raise CheckpointError("expected --model package.module:factory", where=spec)
    # Like `python -m`: find modules in the current folder.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise MissingError(
            f"cannot import the module: {error}", where=spec, hint="is its folder on PYTHONPATH?"
        ) from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise CheckpointError(f"{module_name} has no function {function!r}", where=spec)
    return factory


def _layers_now(model: nn.Module, origin: Origin) -> tuple[InsertedLayer, ...]:
    """Return the inserted layers with the branches that are inactive now."""
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
        # The caller's network must not change.
        return copy.deepcopy(model)
    try:
        return model()
    except Exception as error:  # anything that a user's factory raises
        name = getattr(model, "__qualname__", repr(model))
        text = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(f"the model factory {name} raised {type(error).__name__}: {text}", where=path) from error


def _unreadable(error: Exception, raw: bytes, path: str | os.PathLike[str]) -> CheckpointError:
    text = str(error)
    if Path(path).suffix == ".onnx" or _looks_like_onnx(raw):
        return CheckpointError(
            "expected a checkpoint, got an ONNX model", where=path, hint="`irepdeploy verify` takes ONNX models"
        )
    asks_for_code = "Weights only load failed" in text or ("nsupported" in text and "global" in text.lower())
    if asks_for_code and (raw[:2] == b"PK" or raw[:1] == b"\x80"):
        return CheckpointError(
            "refused: the file contains code to run, not only weights",
            where=path,
            hint="load it where it was made and save it with irepdeploy.save(net, path)",
        )
    if raw[:2] == b"PK":
        return CheckpointError(
            "damaged: the archive is truncated or was modified", where=path, hint="copy or write it again"
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
