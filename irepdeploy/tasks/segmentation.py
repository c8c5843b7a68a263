"""Semantic segmentation: one label per pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.errors import InputError
from irepdeploy.tasks.jackknife import Vector
from irepdeploy.tasks.labels import check_labels
from irepdeploy.tasks.metric import Metric
from irepdeploy.tasks.task import Task

__all__ = ["Segmentation"]


@dataclass(frozen=True)
class Segmentation(Task):
    """Semantic segmentation, scored by the mean intersection over union (mIoU) of the classes.

    Outputs are logits (N, classes, H, W), where a single channel represents two classes; targets are labels (N, H, W).
    Intersections and unions are summed over all images. Classes that neither occur nor are predicted are excluded from
    the mean.

    Args:
        ignore_index: Label of pixels that are neither trained nor scored.
        label_smoothing: Share of the target that is distributed over all classes in training.
    """

    ignore_index: int = 255
    label_smoothing: float = 0.0
    name: ClassVar[str] = "segmentation"
    metric: ClassVar[Metric] = Metric("mIoU", "%")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy over the pixels that are not ignored."""
        logits, labels = _by_class(outputs), _labels(targets)
        total = F.cross_entropy(
            logits, labels, reduction="sum", ignore_index=self.ignore_index, label_smoothing=self.label_smoothing
        )
        # The clamp prevents NaN if all pixels of a batch are ignored.
        return total / (labels != self.ignore_index).sum().clamp(min=1)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the intersections and unions of each image by class, followed by the mean loss of its pixels."""
        logits, labels = _by_class(outputs), _labels(targets)
        classes = logits.shape[1]
        counts = labels != self.ignore_index
        # Ignored pixels get an additional class after the others.
        true = torch.where(counts, labels, classes)
        predicted = torch.where(counts, logits.argmax(1), classes)
        hit = torch.where(true == predicted, true, classes)
        inside, wanted, found = (_counted(each, classes) for each in (hit, true, predicted))
        lost = F.cross_entropy(logits, labels, reduction="none", ignore_index=self.ignore_index)
        loss = lost.flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)
        return torch.cat([inside, wanted + found - inside, loss[:, None]], dim=1).to(logits.dtype)

    def score(self, totals: Vector, count: int) -> float:
        """Return the mean intersection over union."""
        shares = self._shares(totals)
        return float(sum(shares.values()) / len(shares)) if shares else float("nan")

    def figures(self, totals: Vector, count: int) -> dict[str, float]:
        """Return the mean intersection over union, the intersection over union of each class, and the cross-entropy."""
        each = {f"IoU of class {index}": share for index, share in self._shares(totals).items()}
        return {"mIoU": self.score(totals, count), **each, "cross-entropy": float(totals[-1]) / count}

    def check(self, outputs: Tensor, targets: Tensor, where: str) -> None:
        """Raise InputError if outputs are no logits (N, classes, H, W), sizes differ, or labels are out of range."""
        if outputs.ndim != 4:
            raise InputError(
                f"segmentation needs outputs of (N, classes, H, W), got {tuple(outputs.shape)}", where=where
            )
        check_labels(_labels(targets) if isinstance(targets, Tensor) else targets, 3, max(2, outputs.shape[1]), where,
                     self.ignore_index)  # fmt: skip
        if _labels(targets).shape[1:] != outputs.shape[2:]:
            sizes = ("x".join(map(str, size)) for size in (outputs.shape[2:], _labels(targets).shape[1:]))
            raise InputError(
                "expected outputs and targets of the same size, got {} and {}".format(*sizes),
                where=where,
                hint="upsample the outputs in the network, or override outputs(raw) in your own Task",
            )

    def _shares(self, totals: Vector) -> dict[int, float]:
        classes = len(totals) // 2
        pairs = zip(totals[:classes], totals[classes : 2 * classes], strict=True)
        return {index: float(inside / union) for index, (inside, union) in enumerate(pairs) if union > 0}


def _by_class(outputs: Tensor) -> Tensor:
    """Return logits with one channel per class; a single channel becomes two whose softmax is its sigmoid."""
    return torch.cat([torch.zeros_like(outputs), outputs], 1) if outputs.shape[1] == 1 else outputs


def _labels(targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return targets
    return (targets.squeeze(1) if targets.ndim == 4 and targets.shape[1] == 1 else targets).long()


def _counted(labels: Tensor, classes: int) -> Tensor:
    """Return the number of pixels (N, classes) with each label below `classes` in each image."""
    count = len(labels)
    offsets = torch.arange(count, device=labels.device)[:, None] * (classes + 1)
    bins = torch.bincount((labels.flatten(1) + offsets).flatten(), minlength=count * (classes + 1))
    return bins.view(count, classes + 1)[:, :classes]
