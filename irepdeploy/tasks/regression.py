"""Regression of numbers or of maps of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.errors import InputError
from irepdeploy.tasks.jackknife import Vector
from irepdeploy.tasks.metric import Metric
from irepdeploy.tasks.task import Task

__all__ = ["Regression"]

_LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


@dataclass(frozen=True)
class Regression(Task):
    """Regression, scored by R2, the explained share of the variance. Shapes are (N,), (N, D) or (N, D, H, W).

    R2 is 1 for exact outputs, 0 for the mean of the targets, and negative for anything worse. It is averaged over D.

    Args:
        kind: Training loss: "mse", "l1" or "smooth_l1".
    """

    kind: Literal["mse", "l1", "smooth_l1"] = "mse"
    name: ClassVar[str] = "regression"
    metric: ClassVar[Metric] = Metric("R2")

    def __post_init__(self) -> None:
        if self.kind not in _LOSSES:
            raise InputError(f"unknown loss {self.kind!r} for a regression", hint=f"one of {', '.join(_LOSSES)}")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over all numbers."""
        return _LOSSES[self.kind](outputs, _like(targets, outputs))

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the statistics of each sample in float64.

        These are, for each of D, the sums of squared errors, targets and squared targets, then the count and the loss.
        They are in float64 because the variance is a small difference of large sums.
        """
        count = len(outputs)
        wanted = _like(targets, outputs)
        columns = outputs.shape[1] if outputs.ndim > 1 else 1
        found, true = (each.double().reshape(count, columns, -1) for each in (outputs, wanted))
        loss = _LOSSES[self.kind](found, true, reduction="none").flatten(1).mean(1, keepdim=True)
        each = torch.full_like(loss, found.shape[2])
        return torch.cat([(found - true).square().sum(2), true.sum(2), true.square().sum(2), each, loss], dim=1)

    def score(self, totals: Vector, count: int) -> float:
        """Return R2; NaN if all targets are equal."""
        errors, sums, squares = totals[:-2].reshape(3, -1)
        spread = squares - sums**2 / totals[-2]
        # Because of rounding, a variance of zero may come out as slightly different from zero.
        constant = spread <= 1e-12 * abs(squares)
        return float("nan") if constant.any() else float((1 - errors / spread).mean())

    def figures(self, totals: Vector, count: int) -> dict[str, float]:
        """Return R2, the root mean squared error, and the mean loss."""
        errors = totals[:-2].reshape(3, -1)[0]
        rmse = float((errors / totals[-2]).mean() ** 0.5)
        return {"R2": self.score(totals, count), "RMSE": rmse, "loss": float(totals[-1]) / count}

    def check(self, outputs: Tensor, targets: Tensor, where: str) -> None:
        """Raise InputError if targets do not have the shape of the outputs or are not finite."""
        if not isinstance(targets, Tensor) or targets.is_complex():
            raise InputError(f"expected numbers as targets, got {type(targets).__name__}", where=where)
        if outputs.shape[1:].numel() != targets.shape[1:].numel():
            raise InputError(
                f"expected targets (N, {', '.join(map(str, outputs.shape[1:]))}) like the outputs, got"
                f" {tuple(targets.shape)}",
                where=where,
            )
        if not bool(torch.isfinite(targets).all()):
            raise InputError("expected finite targets, got NaN or infinity", where=where)


def _like(targets: Tensor, outputs: Tensor) -> Tensor:
    return targets.to(outputs.dtype).reshape(outputs.shape)
