"""Parse settings of a measurement: batch sizes and shapes of inputs with dynamic dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from irepdeploy.errors import InputError

__all__ = ["batch_sizes", "input_shapes"]


def batch_sizes(text: str | None) -> tuple[int, ...]:
    """Parse ``1,8,64`` into ascending numbers; None and "" are ()."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(
            f"batch sizes {text!r}", where="--batches", hint="whole numbers separated by commas, such as 1,8,64"
        )
    return tuple(sorted({int(part) for part in parts}))


def input_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse ``NAME=1x3x224x224`` into shapes by name."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = sizes.split("x")
        if not name or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            raise InputError(f"the shape {text!r}", where="--shape", hint="such as input=1x3x224x224")
        if name in found:
            raise InputError("given twice", where=f"--shape {name}", hint="name each input once")
        found[name] = tuple(map(int, parts))
    return found
