"""Parse the options of an export."""

from __future__ import annotations

from irepdeploy.errors import InputError

__all__ = ["batch_range"]


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
