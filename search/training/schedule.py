"""Learning-rate schedule of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..execution.loop import cosine

if TYPE_CHECKING:
    from irepdeploy.recipe import TrainSection

__all__ = ["rate_at"]


def rate_at(settings: TrainSection, epoch: int, share: float = 0.0) -> float:
    """Return the learning rate at an epoch, counted from 0, of which a `share` in [0, 1) is done.

    It rises with every step during the warm-up, and falls epoch by epoch afterwards.
    """
    start, warm = settings.weights.lr, settings.warmup_epochs
    if epoch < warm:
        return start * (epoch + share) / warm
    done, whole = epoch - warm, settings.epochs - warm
    if settings.schedule == "cosine":
        return cosine(start, done, whole)
    if settings.schedule == "step":
        return start * 0.1 ** (3 * done // whole)
    return start
