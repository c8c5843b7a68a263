"""Tables of the cells without training: the noise of scores, and the time that scoring takes."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from irepdeploy.board.protocol import percentile
from irepdeploy.runs.reproduction import RescoredPopulation, TimedPopulation

from ..suites.rounds import interval
from ..suites.scoring import per_candidate, speed_up
from .protocol import RANKED
from .table import Table

__all__ = ["noise_table", "timing_table"]

# (score, -loss) of all candidates.
Scoring = Sequence[tuple[float, float]]


def noise_table(found: RescoredPopulation, retrained: Mapping[int, float]) -> Table:
    """Return the table of how scoring noise affects the choice.

    Args:
        found: The scorings.
        retrained: Mean test accuracy of the candidates that were retrained, by rank.
    """
    halves = [half for split in found.halves for half in split]
    rows = (
        _row("halves of the images", found, halves, found.halves),
        _row(
            "statistics of other batches",
            found,
            found.recalibrated,
            list(itertools.combinations(found.recalibrated, 2)),
        ),
    )
    accuracies = [100 * value for value in retrained.values()]
    beside = (
        f"Retrained, {len(accuracies)} of these candidates have a standard deviation of"
        f" {statistics.stdev(accuracies):.2f} points in test accuracy, that of the seeds included."
        if len(accuracies) > 1
        else "None of these candidates was retrained yet."
    )
    notes = (
        f"The last population of {RANKED}, seed {found.seed}: {len(found.whole)} candidates, whose scores on all"
        f" {found.images:,} search-validation images have a standard deviation of {_deviation(found.whole):.2f}"
        " points.",
        f"Noise: standard deviation of one candidate's score over scorings, in points, mean of all candidates; on half"
        f" of the images it is about 1.4 times that on all. New statistics are of {found.batches} training batches.",
        "Another best: scorings whose best candidate is not that of all images with shared statistics. Tau: Kendall's,"
        " mean over pairs of scorings; pairs of halves have no image in common.",
        beside,
    )
    title = f"What does scoring noise do to the choice? {found.network}, {found.condition}"
    columns = ("scorings by", "scorings", "noise", "spread of candidates", "another best", "tau")
    return Table(title, columns, rows, notes)


def _row(
    name: str, found: RescoredPopulation, scorings: Sequence[Scoring], pairs: Sequence[tuple[Scoring, Scoring]]
) -> tuple[str, ...]:
    values = 100 * np.array([[value for value, _ in scoring] for scoring in scorings])
    best = _best(found.whole)
    others = sum(_best(scoring) != best for scoring in scorings)
    return (
        name,
        str(len(scorings)),
        f"{values.std(0, ddof=1).mean():.2f}",
        f"{values.mean(0).std(ddof=1):.2f}",
        f"{others} of {len(scorings)}",
        _tau(pairs),
    )


def _best(scoring: Scoring) -> int:
    """Return the index of the best candidate, the first one among equals."""
    return max(range(len(scoring)), key=lambda place: (*scoring[place], -place))


def _deviation(scoring: Scoring) -> float:
    return 100 * statistics.stdev(value for value, _ in scoring)


def _tau(pairs: Sequence[tuple[Scoring, Scoring]]) -> str:
    from scipy.stats import kendalltau

    taus = [kendalltau(_ranks(one), _ranks(other)).statistic for one, other in pairs]
    known = [tau for tau in taus if not np.isnan(tau)]
    return f"{statistics.fmean(known):+.2f}" if known else "-"


def _ranks(scoring: Scoring) -> list[int]:
    """Return ranks in which candidates of equal accuracy are ordered by loss, as in a search."""
    order = {each: place for place, each in enumerate(sorted(set(scoring)))}
    return [order[each] for each in scoring]


def timing_table(found: TimedPopulation) -> Table:
    """Return the table of the time of each evaluation of a population, and its speed-up over the naive one."""
    size, fuse = found.population, found.fuse_ns

    def own(name: str) -> list[float]:
        return per_candidate(name, found.samples_ns[name], fuse, size, found.chunk, found.naive_chunk)

    rows = []
    for name in found.samples_ns:
        seconds, speed = speed_up(own("naive"), own(name), found.seed)
        shown = ("1", "-") if name == "naive" else (f"{speed.value:.2f}", interval(speed))
        rows.append((name, f"{seconds:.3f}", f"{seconds * size:.1f}", *shown))
    rounds = len(found.samples_ns["naive"])
    notes = (
        f"{found.images:,} search-validation images; {size} random candidates at a budget of 2/3 with random weights.",
        f"naive: one module for each kept branch, in batches of {found.naive_batch}; fused: one plain network"
        f" for a sum of cached kernels, in batches of {found.batch}, with its share of fusing every branch once"
        f" ({percentile(fuse, 50) / 1e9:.3f} s for the population).",
        f"{rounds} rounds, in which all evaluations took turns; x: ratio of medians; s: means. Reading and normalizing"
        " the images is included.",
    )
    columns = ("evaluation", "s per candidate", "s per population", "x naive", "95 % interval")
    return Table(f"Table 1: how long does a population take? {found.network}", columns, tuple(rows), notes)
