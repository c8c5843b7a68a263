"""The infinitesimal jackknife: what each sample contributes to a score that is a function of sums over samples.

Efron, "The Jackknife, the Bootstrap and Other Resampling Plans" (1982), chapter 6. The slopes of the score are taken
by central differences, so that a score is any function of the totals, smooth near them.
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
    # Row by row, as a sum of one long array: numpy adds the rows of a matrix in another order.
    return np.array([row.sum(dtype=np.float64) for row in rows])


def contributions(score: Callable[[Vector, int], float], rows: Rows) -> Vector:
    """Return (N,) values with the score as their mean; a sample's distance from it is its influence on the score."""
    count = rows.shape[1]
    totals = totals_of(rows)
    # A task may give a whole number, or one of numpy or torch.
    found = np.full(count, float(score(totals, count)))
    for index, row in enumerate(rows):
        values = row.astype(np.float64)
        centred = values - totals[index] / count
        # A statistic that is the same for all samples, such as a class that never occurs, tells no sample from another.
        if np.ptp(values) == 0:
            continue
        step = np.zeros(len(totals))
        step[index] = _STEP * np.abs(values).sum()
        slope = (float(score(totals + step, count)) - float(score(totals - step, count))) / (2 * step[index])
        found += count * slope * centred
    return found


def jackknife_interval(score: Callable[[Vector, int], float], rows: Rows) -> Interval | None:
    """Return the 95 % interval of the score; None of fewer than two samples."""
    count = rows.shape[1]
    if count < 2:
        return None
    values = contributions(score, rows)
    centre = float(values.mean())
    width = _QUANTILE * float(values.std(ddof=1)) / count**0.5
    return Interval(centre - width, centre + width, "infinitesimal jackknife")
