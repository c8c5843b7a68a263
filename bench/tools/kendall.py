"""Kendall's tau-b: how far two rankings of the same things agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["kendall"]


def kendall(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Tau-b of two series of scores: 1 for the same order, -1 for the opposite one, 0 for none.

    A pair that ties in one series counts for neither order. None where a series tells no two apart.
    """
    signs = [np.sign(np.subtract.outer(np.asarray(each), np.asarray(each))) for each in (one, other)]
    told_apart = [float(np.abs(sign).sum()) for sign in signs]
    if not all(told_apart):
        return None
    return float((signs[0] * signs[1]).sum()) / math.sqrt(told_apart[0] * told_apart[1])
