"""The infinitesimal jackknife: the contribution of each sample to a score that is a function of sums over samples.

See Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), chapter 6. The slopes of the score are
central differences, so the score may be any function that is smooth near the totals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from irepdeploy.tasks.metric import Interval

__all__ = ["Rows", "Vector", "contributions", "jackknife_interval", "totals_of"]

Vector = np.ndarray[Any, Any]
# Statistics of N samples, one row per statistic: (K, N).
Rows = np.ndarray[Any, Any]

_STEP = 1e-6
_QUANTILE = 1.959963984540054


def totals_of(rows: Rows) -> Vector:
    """Return the sum of each statistic over all samples, in float64."""
    # Sum row by row: numpy's summation order for a single array differs from that for the rows of a matrix.
    return np.array([row.sum(dtype=np.float64) for row in rows])


def contributions(score: Callable[[Vector, int], float], rows: Rows) -> Vector:
    """Return values (N,) whose mean is the score; a sample's deviation from it is its influence on the score."""
    count = rows.shape[1]
    totals = totals_of(rows)
    # A task may return an integer, or a number of numpy or torch.
    found = np.full(count, float(score(totals, count)))
    for index, row in enumerate(rows):
        values = row.astype(np.float64)
        centred = values - totals[index] / count
        # A statistic that is equal for all samples, such as that of a class that never occurs, has no influence.
        if np.ptp(values) == 0:
            continue
        step = np.zeros(len(totals))
        step[index] = _STEP * np.abs(values).sum()
        slope = (float(score(totals + step, count)) - float(score(totals - step, count))) / (2 * step[index])
        found += count * slope * centred
    return found


def jackknife_interval(score: Callable[[Vector, int], float], rows: Rows) -> Interval | None:
    """Return the 95 % interval of the score; None for fewer than two samples."""
    count = rows.shape[1]
    if count < 2:
        return None
    values = contributions(score, rows)
    centre = float(values.mean())
    width = _QUANTILE * float(values.std(ddof=1)) / count**0.5
    return Interval(centre - width, centre + width, "infinitesimal jackknife")
