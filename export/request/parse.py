"""What somebody asks of an export on the command line, as the objects that the writers take."""

from __future__ import annotations

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import INPUT_DTYPES

__all__ = ["batch_range", "input_spec"]


def input_spec(text: str, default_name: str = "input") -> TensorSpec:
    """``name:1x3x224x224``, ``1x3x224x224`` or ``name:1x77:int64`` as an input.

    Raises:
        InputError: it is none of them.
    """
    *name, shape = text.split(":")
    dtype = "float32"
    if shape in INPUT_DTYPES and name:
        dtype, shape = shape, name.pop()
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) > 0 for size in sizes) or (name and not ":".join(name)):
        raise InputError(
            f"{text!r} is no input", where="--input-shape", hint="name:1x3x224x224, or name:1x77:int64 for other types"
        )
    return TensorSpec(":".join(name) or default_name, tuple(map(int, sizes)), dtype)


def batch_range(text: str) -> tuple[int, int, int]:
    """``MIN:OPT:MAX``, or one number for all three.

    Raises:
        InputError: no such numbers, or not in this order.
    """
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isdecimal()]
    if len(numbers) == len(parts) == 1:
        numbers *= 3
    if len(parts) not in (1, 3) or len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
        raise InputError(f"{text!r} is no range of batches", where="--dynamic-batch", hint="MIN:OPT:MAX, as 1:8:32")
    return numbers[0], numbers[1], numbers[2]
