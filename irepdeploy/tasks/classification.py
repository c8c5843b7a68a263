"""Classification: one label per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.errors import InputError
from irepdeploy.runs import TOP_5
from irepdeploy.tasks.jackknife import Rows, Vector
from irepdeploy.tasks.labels import check_labels
from irepdeploy.tasks.metric import Interval, Metric
from irepdeploy.tasks.task import Task

__all__ = ["TOP_5", "Classification"]

_TOP = 5
# With this many classes or fewer, top-5 accuracy says little.
_FEW_CLASSES = 10
_QUANTILE = 1.959963984540054


@dataclass(frozen=True)
class Classification(Task):
    """Classification of images, scored by top-1 accuracy.

    Outputs are logits (N, classes). Targets are labels (N,) or class shares (N, classes).

    Args:
        label_smoothing: Share of the target that is distributed over all classes in training.
    """

    label_smoothing: float = 0.0
    name: ClassVar[str] = "classification"
    metric: ClassVar[Metric] = Metric("accuracy", "%")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy. Class shares, such as those of mixup, are smoothed like labels."""
        return F.cross_entropy(outputs, _as_target(targets, outputs), label_smoothing=self.label_smoothing)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return for each image: whether top-1 and (with more than ten classes) top-5 are correct, and the loss."""
        labels = targets.long() if targets.ndim == 1 else targets.argmax(1)
        columns = [(outputs.argmax(1) == labels).to(outputs.dtype)]
        if outputs.shape[1] > _FEW_CLASSES:
            first = outputs.topk(_TOP, dim=1).indices
            columns.append((first == labels[:, None]).any(1).to(outputs.dtype))
        columns.append(F.cross_entropy(outputs, labels, reduction="none"))
        return torch.stack(columns, dim=1)

    def score(self, totals: Vector, count: int) -> float:
        """Return the share of correctly classified images."""
        return float(totals[0]) / count

    def figures(self, totals: Vector, count: int) -> dict[str, float]:
        """Return the accuracy, the top-5 accuracy if there are more than ten classes, and the cross-entropy."""
        top = {TOP_5: float(totals[1]) / count} if len(totals) > 2 else {}
        return {"accuracy": self.score(totals, count), **top, "cross-entropy": float(totals[-1]) / count}

    def contributions(self, statistics: Rows) -> Vector:
        """Return whether each image is correctly classified."""
        return statistics[0]

    def interval(self, statistics: Rows) -> Interval:
        """Return Wilson's interval of the accuracy."""
        count, share = statistics.shape[1], float(statistics[0].mean(dtype=float))
        ratio = _QUANTILE**2 / count
        centre = (share + ratio / 2) / (1 + ratio)
        half = _QUANTILE * (share * (1 - share) / count + ratio / 4 / count) ** 0.5 / (1 + ratio)
        return Interval(max(0.0, centre - half), min(1.0, centre + half), "binomial (Wilson)")

    def check(self, outputs: Tensor, targets: Tensor, where: str) -> None:
        """Raise InputError if outputs are not logits (N, classes), or labels are outside the classes."""
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise InputError(
                f"classification needs outputs of (N, classes), got {tuple(outputs.shape)}",
                where=where,
                hint='use task="segmentation" for maps of classes, or task="regression" for numbers',
            )
        if targets.is_floating_point() and targets.ndim == 2 and targets.shape[1] == outputs.shape[1]:
            return
        check_labels(targets, 1, outputs.shape[1], where)


def _as_target(targets: Tensor, outputs: Tensor) -> Tensor:
    return targets.to(outputs.dtype) if targets.is_floating_point() else targets.long()
