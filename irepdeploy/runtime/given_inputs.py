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
from irepdeploy.errors import InputError, counted, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Given",
    "batch_axis",
    "example_specs",
    "forward_names",
    "forward_order",
    "given_arrays",
    "given_tensors",
    "ordered_specs",
]

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
        if not inputs:
            raise _refused("none")
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
        InputError: An input is not a tensor or array, or ``forward`` takes more, fewer or other inputs.
    """
    import torch

    parts: Sequence[Any] = _parts(inputs)
    if isinstance(inputs, Mapping):
        takes = forward_names(model)
        if takes and not set(inputs) <= set(takes):
            raise InputError(f"expected inputs {', '.join(takes)}, got {', '.join(map(str, inputs))}", where="inputs")
        parts = [inputs[name] for name in forward_order(model, list(inputs))]
    tensors = tuple(_tensor(part) if isinstance(part, np.ndarray) else part for part in parts)
    wrong = [type(part).__name__ for part in tensors if not isinstance(part, torch.Tensor)]
    if wrong or not tensors:
        raise InputError(
            f"expected tensors, got {wrong[0] if wrong else 'none'}", where="inputs", hint="torch.randn(2, C, H, W)"
        )
    _check_number(model, len(tensors))
    return tensors


def example_specs(model: nn.Module, examples: Any) -> list[TensorSpec]:
    """Infer the inputs of a network from examples, in the order of ``forward`` and with None for the batch.

    The batch is the most frequent first size of the examples.

    Args:
        model: The network. The parameters of its ``forward`` name examples that are given by position.
        examples: Inputs as for `given_arrays`, with the batch on the axis that the network expects.

    Raises:
        InputError: An example is not an array of numbers, or ``forward`` takes more, fewer or other inputs.
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
    for name, array in found.items():
        axis = batch_axis(array.shape, batch)
        sizes = tuple(None if place == axis else size for place, size in enumerate(array.shape))
        specs.append(TensorSpec(name, sizes, array.dtype.name))
    _check_number(model, len(specs))
    return ordered_specs(model, specs)


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
    """Return names of inputs in the order of ``forward``; if one is not a parameter of it, the order is kept.

    Raises:
        InputError: A parameter that precedes one of them is missing, or is not at its position among other names.
    """
    takes = forward_names(model)
    if not set(names) <= set(takes):
        for place, name in enumerate(names):
            if name in takes[:place] + takes[place + 1 :]:
                number = takes.index(name) + 1
                hint = "use the names of its parameters for all inputs, or for none"
                what = f"{name!r} is parameter {number} of forward({', '.join(takes)}), but input {place + 1}"
                raise InputError(what, where="inputs", hint=hint)
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


def ordered_specs(model: nn.Module, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return inputs in the order of ``forward``; see `forward_order`."""
    by_name = {spec.name: spec for spec in specs}
    return [by_name[name] for name in forward_order(model, list(by_name))]


def _check_number(model: nn.Module, count: int) -> None:
    """Refuse a number of inputs that ``forward`` does not take."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # compiled code has no signature
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise InputError(
            f"forward({takes}) cannot be called with {counted(count, 'input')} by position: {error}", where="inputs"
        ) from error


def _parts(inputs: Any) -> tuple[Any, ...]:
    # A list without arrays is one array, as nested numbers.
    several = isinstance(inputs, list | tuple) and any(map(_is_array, inputs))
    return tuple(inputs) if several else (inputs,)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or _is_tensor(value)


def _is_tensor(value: object) -> bool:
    # Without torch there are no tensors, and importing it takes seconds.
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(value, loaded.Tensor)


def _array(given: Any, single: bool, least: int) -> Array:
    what = type(given).__name__
    try:
        if _is_tensor(given):
            tensor = given.detach().cpu()
            # numpy has no bfloat16.
            given = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        array = np.asarray(given)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # Rows of different lengths, and tensors that are sparse or without values.
        raise _refused(f"{what}: {first_line(error)}") from error
    if array.dtype.kind not in "biuf" or array.ndim < least or array.size == 0:
        shown = f"{array.dtype} of shape {array.shape}" if isinstance(given, np.ndarray) else what
        raise _refused(f"no values: shape {array.shape}" if array.size == 0 else shown)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.astype(np.float32) if single and array.dtype == np.float64 else array


def _tensor(array: Array) -> torch.Tensor:
    import torch

    try:
        # torch has no negative strides and no foreign byte order.
        return torch.from_numpy(np.asarray(array, array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise InputError(f"expected numbers, got an array of {array.dtype}", where="inputs") from error


def _refused(what: str) -> InputError:
    return InputError(
        f"expected arrays of integers or floats with a batch dimension, got {what}",
        where="inputs",
        hint="an array (N, ...); for several inputs (array, ...) in their order or {name: array}; or a file",
    )
