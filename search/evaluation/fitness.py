"""Fitness of a network on the search-validation set, and the per-sample statistics that it is computed from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.data import Split, Stream, in_order
from irepdeploy.tasks import Classification, Task, called
from irepdeploy.tasks.batches import wide
from irepdeploy.tasks.jackknife import Rows, Vector

if TYPE_CHECKING:
    from irepdeploy.runs.result import ScoreSet

__all__ = ["CLASSIFICATION", "Fitness", "Outcome", "evaluation_batch", "joined", "outcome_of", "score", "statistics_of"]

CLASSIFICATION = Classification()
# Images per forward pass, for images up to the size of ImageNet's.
_BATCH, _AREA = 200, 224 * 224


@dataclass(frozen=True, order=True)
class Fitness:
    """Score by the metric of a task; ties are broken by the smaller loss, and greater is better."""

    value: float
    negative_loss: float


@dataclass(frozen=True)
class Outcome:
    """Statistics of N samples, as defined by a task: (K, N), whose last row holds the losses."""

    statistics: Rows
    task: Task = CLASSIFICATION

    @classmethod
    def of(cls, parts: Sequence[Tensor], task: Task) -> Outcome:
        """Make an outcome from the statistics of batches, (n, K) each, in a single transfer from the device."""
        return cls(torch.cat(list(parts)).T.contiguous().cpu().numpy(), task)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.statistics.shape[1]

    @property
    def fitness(self) -> Fitness:
        """Score and mean loss, summed in float64."""
        loss = float(self.statistics[-1].sum(dtype=np.float64))
        return Fitness(called.score_of(self.task, self.statistics), -loss / len(self))

    @property
    def figures(self) -> dict[str, float]:
        """All numeric figures that the task reports, by name."""
        found = called.figures_of(self.task, self.statistics)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    @property
    def contributions(self) -> Vector:
        """Contribution of each sample to the score, in float64."""
        with called.blamed("contributions", f"task {self.task.name}"):
            return self.task.contributions(self.statistics).astype(np.float64)

    @property
    def score_set(self) -> ScoreSet:
        """The figures and the interval of the score, as a result file contains them."""
        # Imported late: pydantic is not installed where only fitness is measured.
        from irepdeploy.runs.result import ScoreSet

        interval = called.interval_of(self.task, self.statistics)
        if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
            return ScoreSet(samples=len(self), figures=self.figures)
        return ScoreSet(samples=len(self), figures=self.figures, **vars(interval))

    def first(self, count: int) -> Outcome:
        """Return the outcome of the first samples."""
        return Outcome(self.statistics[:, :count], self.task)


def evaluation_batch(input_shape: Sequence[int]) -> int:
    """Return how many samples of this shape without the batch, such as (C, H, W), to evaluate in one forward pass."""
    return max(1, min(_BATCH, _BATCH * _AREA // max(1, math.prod(input_shape[1:]))))


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Concatenate the outcomes of all parts, in order."""
    return Outcome(np.concatenate([part.statistics for part in parts], axis=1), parts[0].task)


def statistics_of(task: Task, raw: object, targets: object, count: int) -> Tensor:
    """Return the statistics of `count` samples from the raw outputs of a network, with half precision widened."""
    return called.statistics_of(task, wide(task.outputs(raw)), targets, count)


def score(network: nn.Module, data: Split | Stream, batch_size: int = 200, task: Task = CLASSIFICATION) -> Fitness:
    """Return the fitness of a network in eval mode, on its own device."""
    return outcome_of(network, data, batch_size, task).fitness


@torch.inference_mode()
def outcome_of(
    network: nn.Module,
    data: Split | Stream,
    batch_size: int = 200,
    task: Task = CLASSIFICATION,
    watch: Callable[[Any, Any], None] = lambda outputs, targets: None,
) -> Outcome:
    """Return the outcome of a network in eval mode, on its own device; `watch` is called with outputs and targets."""
    place = next(network.parameters(), torch.zeros(0)).device
    rows = []
    for images, targets in in_order(data, batch_size, place):
        outputs = wide(task.outputs(network(images)))
        rows.append(called.statistics_of(task, outputs, targets, len(images)))
        watch(outputs, targets)
    return Outcome.of(rows, task)
