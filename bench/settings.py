"""Parse settings of a measurement."""

from __future__ import annotations

from irepdeploy.errors import InputError

__all__ = ["batch_sizes"]


def batch_sizes(text: str | None) -> tuple[int, ...]:
    """Parse ``1,8,64`` into ascending numbers; None and "" are ()."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(
            f"batch sizes {text!r}", where="--batches", hint="whole numbers separated by commas, such as 1,8,64"
        )
    return tuple(sorted({int(part) for part in parts}))
