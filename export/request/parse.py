"""Parse the options of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import INPUT_DTYPES

__all__ = ["batch_range", "input_spec", "input_specs"]


def input_spec(text: str) -> TensorSpec:
    """Parse ``name:1x3x224x224``, ``1x3x224x224`` or ``name:1x77:int64``; the default dtype is float32."""
    *name, shape = text.split(":")
    dtype = "float32"
    if shape in INPUT_DTYPES and name:
        dtype, shape = shape, name.pop()
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes) or (name and not ":".join(name)):
        raise InputError(
            f"expected an input such as name:1x3x224x224, got {text!r}",
            where="--input-shape",
            hint="name:1x77:int64 for other types",
        )
    return TensorSpec(":".join(name) or "input", tuple(map(int, sizes)), dtype)


def input_specs(given: Any) -> list[TensorSpec]:
    """Return the inputs that are given as TensorSpecs, texts of `input_spec` or sizes: one, several, or by name."""
    if isinstance(given, Mapping):
        return [_input_of(shape)._replace(name=str(name)) for name, shape in given.items()]
    one = isinstance(given, str | TensorSpec) or not isinstance(given, Sequence) or all(map(_is_size, given))
    return [_input_of(item) for item in ([given] if one else given)]


def _input_of(given: Any) -> TensorSpec:
    if isinstance(given, TensorSpec):
        return given
    if isinstance(given, str):
        return input_spec(given)
    if not isinstance(given, Sequence) or not given or not all(map(_is_size, given)):
        raise InputError(
            f"expected the sizes of an input, got {given!r}", where="input_shape", hint="for example (1, 3, 224, 224)"
        )
    if len(given) == 3 and given[0] != 1:
        # What `irepdeploy.save` takes.
        hint = f"{(1, *map(int, given))}: as many dimensions as forward takes"
        raise InputError(
            f"expected the batch, 1, before the other sizes, got {tuple(given)}", where="input_shape", hint=hint
        )
    return TensorSpec("input", tuple(map(int, given)))


def _is_size(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and int(value) > 0


def batch_range(text: str) -> tuple[int, int, int]:
    """Parse ``MIN:OPT:MAX`` in ascending order, or one number for all three."""
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(numbers) == len(parts) == 1:
        numbers *= 3
    if len(parts) not in (1, 3) or len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise InputError(
            f"expected batch sizes MIN:OPT:MAX, got {text!r}", where="--dynamic-batch", hint="for example 1:8:32"
        )
    return numbers[0], numbers[1], numbers[2]
