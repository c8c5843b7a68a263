"""Confusion matrix of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Confusion"]


class Confusion:
    """Counts images by (true class, predicted class), batch by batch.

    Attributes:
        counts: (classes, classes) int64; None before the first batch, and if targets are not labels.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch of logits (N, classes) and labels (N,), or shares of the classes (N, classes)."""
        classes = outputs.shape[1]
        labels = targets.long() if targets.ndim == 1 else targets.argmax(1)
        pairs = torch.bincount(labels * classes + outputs.argmax(1), minlength=classes**2).view(classes, classes).cpu()
        self.counts = pairs if self.counts is None else self.counts + pairs

    def labelled(self, names: Sequence[str]) -> tuple[np.ndarray[Any, Any] | None, Sequence[str]]:
        """Return the counts and the names of their classes, which are numbers unless there is a name for each."""
        if self.counts is None:
            return None, names
        return self.counts.numpy(), names if len(names) == len(self.counts) else [*map(str, range(len(self.counts)))]
