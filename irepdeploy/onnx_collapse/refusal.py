"""Refusal: why an operator cannot be taken into a region; it ends a region and never reaches a user as an error."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NO_LOSS", "Refusal"]

# The reason where no convolution would have been saved, and nothing is to be reported.
NO_LOSS = ""


class Refusal(Exception):
    """Raised by a rule.

    Args:
        reason: in words, without a full stop.
        tensors: the inputs at fault: were they not taken into the region, the operator could be; None: all of them.
    """

    def __init__(self, reason: str, tensors: Sequence[str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensors = tensors
