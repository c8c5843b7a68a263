"""Progress reports of a run."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Advance", "labelled"]

# Called with the number of epochs done since the last call, and a short text.
Advance = Callable[[int, str], None]


def labelled(advance: Advance, label: str) -> Advance:
    """Return `advance` with a label before each text."""
    return lambda epochs, note: advance(epochs, f"{label}  {note}")
