"""Check the arguments of `export_model`, which can be passed in many forms."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.runtime.given_inputs import given_arrays

from .export_request import ExportRequest
from .settings import Settings

__all__ = ["request_of"]


def request_of(
    source: Any,
    out: Any,
    target: str,
    model_factory: Callable[[], nn.Module] | None,
    inputs: Any,
    seed: Any,
    settings: Mapping[str, Any],
) -> ExportRequest:
    """Return the request for these arguments of `export_model`.

    Raises:
        InputError: An argument has the wrong type.
    """
    if not isinstance(source, str | os.PathLike | nn.Module):
        hint = "call it: it makes one" if callable(source) else None
        kind = source.__name__ if isinstance(source, type) else type(source).__name__
        raise InputError(f"expected a network, a file or a name, got {kind}", where="source", hint=hint)
    if out is not None and not isinstance(out, str | os.PathLike):
        raise InputError(f"expected a folder, got {out!r}", where="out")
    if model_factory is not None and not callable(model_factory):
        raise InputError(f"expected a function that builds a network, got {model_factory!r}", where="model_factory")
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or int(seed) < 0:
        raise InputError(f"expected a whole number from 0, got {seed!r}", where="seed")
    label = type(source).__name__ if isinstance(source, nn.Module) else Path(source).stem
    folder = f"{label}-export" if out is None else out
    given = None if inputs is None else given_arrays(inputs, single=isinstance(source, nn.Module))
    asked = {name: _plain(value) if name == "input_shape" else value for name, value in settings.items()}
    return ExportRequest(source, folder, target, model_factory, given, int(seed), Settings.of(asked))


def _plain(shape: Any) -> Any:
    """Return sizes held by numpy or torch as a list; raise InputError if an item is not a size."""
    found = shape.tolist() if hasattr(shape, "tolist") else shape
    if isinstance(found, list | tuple) and not isinstance(found, TensorSpec):
        whole = [isinstance(size, int) and not isinstance(size, bool) for size in found]
        if any(whole) and not all(whole):
            hint = "for example (1, 3, 224, 224)"
            raise InputError(f"expected the sizes of an input, got {shape!r}", where="input_shape", hint=hint)
    return found
