"""Parse the options of an export."""

from __future__ import annotations

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import INPUT_DTYPES

__all__ = ["batch_range", "input_spec"]


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
