"""Learning-rate schedule of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..execution.loop import cosine

if TYPE_CHECKING:
    from irepdeploy.recipe import TrainSection

__all__ = ["rate_at"]


# Initial share of the rate in a warm-up of steps, as in MMDetection.
_FIRST = 0.001


def rate_at(settings: TrainSection, epoch: int, share: float = 0.0, step: int = 0) -> float:
    """Return the learning rate during an epoch. It rises with every step of the warm-up, then falls with every epoch.

    Args:
        settings: Settings of the training.
        epoch: Index of the epoch, from 0.
        share: Share of the epoch that is done, in [0, 1).
        step: Number of batches since the start of the training.
    """
    rate = _by_epoch(settings, epoch, share)
    done = step / settings.warmup_steps if step < settings.warmup_steps else 1.0
    return rate * (_FIRST + (1 - _FIRST) * done)


def _by_epoch(settings: TrainSection, epoch: int, share: float) -> float:
    start, warm = settings.weights.lr, settings.warmup_epochs
    if epoch < warm:
        return start * (epoch + share) / warm
    done, whole = epoch - warm, settings.epochs - warm
    if settings.schedule == "cosine":
        return cosine(start, done, whole)
    if settings.schedule == "step" and settings.milestones:
        return start * 0.1 ** sum(epoch >= milestone for milestone in settings.milestones)
    if settings.schedule == "step":
        return start * 0.1 ** (3 * done // whole)
    return start
