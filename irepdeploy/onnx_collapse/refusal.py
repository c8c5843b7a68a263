"""Refusal: why an operator cannot be merged; it ends up in the report and never reaches users as an error."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NO_LOSS", "Refusal"]

# The reason if merging would save no convolution, so that there is nothing to report.
NO_LOSS = ""


class Refusal(Exception):
    """Raised by an operator rule.

    Args:
        reason: in words, without a full stop.
        tensors: the inputs that must be kept for the operator to be merged; None means all of them.
    """

    def __init__(self, reason: str, tensors: Sequence[str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensors = tensors
