"""Refusal: why an operator cannot be merged. It appears in the report and is never raised to users."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NO_LOSS", "Refusal"]

# Reason for not merging if no convolution would be saved, so that there is nothing to report.
NO_LOSS = ""


class Refusal(Exception):
    """Exception of an operator rule that cannot merge an operator.

    Args:
        reason: The reason in words, without a period.
        tensors: Inputs that must be kept so that the operator can be merged, or None for all of them.
    """

    def __init__(self, reason: str, tensors: Sequence[str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tensors = tensors
