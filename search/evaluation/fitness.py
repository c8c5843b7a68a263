"""Fitness of a network on the search-validation set, and the per-image outcomes that it is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.data import Split, in_order

__all__ = ["Fitness", "Outcome", "joined", "outcome_rows", "score"]


@dataclass(frozen=True, order=True)
class Fitness:
    """Accuracy in [0, 1], ties broken by the smaller loss; greater is better."""

    accuracy: float
    negative_loss: float


@dataclass(frozen=True)
class Outcome:
    """Whether each image is classified correctly, (N,) bool, and its cross-entropy, (N,)."""

    correct: np.ndarray[Any, Any]
    loss: np.ndarray[Any, Any]

    @classmethod
    def of(cls, rows: Tensor) -> Outcome:
        """Make outcomes from the rows of `outcome_rows`, (2, N), in a single transfer from the device."""
        values = rows.cpu().numpy()
        return cls(values[0] > 0, values[1])

    @property
    def fitness(self) -> Fitness:
        """Mean accuracy and mean loss, summed in float64."""
        count = len(self.correct)
        return Fitness(int(self.correct.sum()) / count, -float(self.loss.sum(dtype=np.float64)) / count)


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Concatenate the outcomes of all parts, in order."""
    return Outcome(np.concatenate([part.correct for part in parts]), np.concatenate([part.loss for part in parts]))


def outcome_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (2, N): 1 for each image classified correctly, and its loss; float32, or float64 of float64 logits."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.stack([(wide.argmax(1) == labels).to(wide.dtype), F.cross_entropy(wide, labels, reduction="none")])


@torch.inference_mode()
def score(network: nn.Module, data: Split, batch_size: int = 200) -> Fitness:
    """Return the accuracy and mean loss of a network in eval mode, on its own device."""
    place = next(network.parameters(), torch.zeros(0)).device
    rows = [outcome_rows(network(images), labels) for images, labels in in_order(data, batch_size, place)]
    return Outcome.of(torch.cat(rows, dim=1)).fitness
