"""Inputs in the forms that Python code passes: one array or tensor, several in order, or several by name."""

from __future__ import annotations

import inspect
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Given", "batch_axis", "example_specs", "forward_names", "forward_order", "given_arrays", "given_tensors"]

Array = np.ndarray[Any, Any]
# A file or folder, one array (N, ...), such arrays by name, or such arrays in the order of the inputs.
Given = str | os.PathLike[str] | Array | Mapping[str, Array] | tuple[Array, ...]


def given_arrays(inputs: Any, *, single: bool = False) -> Given:
    """Convert inputs to numpy arrays; paths, names and the order are preserved.

    Args:
        inputs: A path; an array, a tensor or nested numbers (N, ...); a tuple or list of arrays or tensors in the order
            of the inputs; or a mapping of them by name.
        single: Convert float64 arrays to float32.

    Raises:
        InputError: An input is not an array of numbers.
    """
    if isinstance(inputs, str | os.PathLike):
        return inputs
    if isinstance(inputs, Mapping):
        return {str(name): _array(value, single, 0) for name, value in inputs.items()}
    parts = _parts(inputs)
    # One of several inputs may be a single number.
    return _array(parts[0], single, 1) if len(parts) == 1 else tuple(_array(part, single, 0) for part in parts)


def given_tensors(model: nn.Module, inputs: Any) -> tuple[torch.Tensor, ...]:
    """Convert inputs to tensors for a call ``model(*tensors)``.

    Args:
        model: The network. The parameters of its ``forward`` determine the order of inputs that are given by name.
        inputs: A tensor or an array; a tuple or list of them in the order of ``forward``; or a mapping of them by name.

    Raises:
        InputError: An input is not a tensor or array, or a parameter before a named one is missing.
    """
    import torch

    parts: Sequence[Any] = _parts(inputs)
    if isinstance(inputs, Mapping):
        takes = forward_names(model)
        if takes and not set(inputs) <= set(takes):
            raise InputError(f"expected inputs {', '.join(takes)}, got {', '.join(map(str, inputs))}", where="inputs")
        parts = [inputs[name] for name in forward_order(model, list(inputs))]
    tensors = tuple(torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in parts)
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise InputError(
            f"expected tensors, got {type(inputs).__name__}", where="inputs", hint="torch.randn(2, C, H, W)"
        )
    return tensors


def example_specs(model: nn.Module, examples: Any) -> list[TensorSpec]:
    """Infer the inputs of a network from examples, in the order of ``forward`` and with None for the batch.

    The batch is the most frequent first size of the examples.

    Args:
        model: The network. The parameters of its ``forward`` name examples that are given by position.
        examples: Inputs as for `given_arrays`, with the batch on the axis that the network expects.

    Raises:
        InputError: An example is not an array of numbers, or a parameter before a named one is missing.
    """
    found = given_arrays(examples, single=all(str(each.dtype) != "torch.float64" for each in model.parameters()))
    if isinstance(found, str | os.PathLike):
        raise InputError(f"expected arrays or tensors, got {found!r}", where="inputs")
    if isinstance(found, np.ndarray):
        found = {"input": found}
    elif isinstance(found, tuple):
        takes = forward_names(model)[: len(found)]
        names = [*takes, *(f"input_{place}" for place in range(len(takes), len(found)))]
        found = dict(zip(names, found, strict=True))
    batches = Counter(array.shape[0] for array in found.values() if array.ndim)
    batch = batches.most_common(1)[0][0] if batches else 0
    specs = []
    for name in forward_order(model, list(found)):
        shape, axis = found[name].shape, batch_axis(found[name].shape, batch)
        sizes = tuple(None if place == axis else size for place, size in enumerate(shape))
        specs.append(TensorSpec(name, sizes, found[name].dtype.name))
    return specs


def batch_axis(shape: Sequence[int | str | None], size: int) -> int | None:
    """Return the axis of a batch of this size: the first axis if it has this size, else the only other such axis."""
    places = [place for place, length in enumerate(shape) if length == size]
    return places[0] if places and (places[0] == 0 or len(places) == 1) else None


def forward_names(model: nn.Module) -> list[str]:
    """Return the names of the positional parameters of ``forward``, or [] if they are unknown."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code has no signature
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def forward_order(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return names of inputs in the order of ``forward``; if some are not parameters of it, the order is kept.

    Raises:
        InputError: A parameter that precedes one of them is missing, so that they cannot be passed by position.
    """
    takes = forward_names(model)
    if not set(names) <= set(takes):
        return list(names)
    ordered = sorted(names, key=takes.index)
    missing = [name for name in takes[: len(ordered)] if name not in ordered]
    if missing:
        raise InputError(
            f"expected inputs {', '.join(takes[: len(ordered)])}, got {', '.join(ordered)}",
            where="inputs",
            hint=f"inputs are passed by position: give {' and '.join(missing)} too",
        )
    return ordered


def _parts(inputs: Any) -> tuple[Any, ...]:
    several = isinstance(inputs, list | tuple) and bool(inputs) and all(map(_is_array, inputs))
    return tuple(inputs) if several else (inputs,)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _is_tensor(value: object) -> bool:
    # Without torch there are no tensors, and importing it takes seconds.
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(value, loaded.Tensor)


def _array(given: Any, single: bool, least: int) -> Array:
    if _is_tensor(given):
        tensor = given.detach().cpu()
        # numpy has no bfloat16.
        given = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf" or array.ndim < least:
        raise InputError(
            f"expected arrays with a batch dimension, got {type(given).__name__}",
            where="inputs",
            hint="an array (N, ...); for several inputs (array, ...) in their order or {name: array}; or a file",
        )
    return array.astype(np.float32) if single and array.dtype == np.float64 else array
