"""Contests: strategies, presets or arms run with the same seeds, and their differences from the first one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from irepdeploy.files import read_bytes
from irepdeploy.limits import JOURNAL
from irepdeploy.runs.comparison import ComparedSearch, SearchComparison, TrainingComparison
from irepdeploy.runs.reproduction import ReproducedCell
from irepdeploy.runs.schema import MetricFacts
from irepdeploy.runs.spread import Spread, student_interval

from .gap import Gap

__all__ = ["COMPARISON", "Arm", "Contest", "contest_of", "contests_of_cells"]

COMPARISON = "compare.json"
# Reference arm, if a protocol has it.
_BASE = "plain"


@dataclass(frozen=True)
class Arm:
    """One of the alternatives in a contest, with its scores by seed, in [0, 1] if the metric is a share.

    Args:
        cost: Mean training time in seconds, if it was recorded.
    """

    name: str
    scores: Mapping[int, float]
    branches: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Contest:
    """Arms that were run with the same seeds; differences are relative to the first one.

    Args:
        figure: Description of the scores, such as "test accuracy, fused".
        curves: Best score so far by number of candidates, for each arm.
    """

    title: str
    figure: str
    metric: MetricFacts
    arms: tuple[Arm, ...]
    notes: tuple[str, ...] = ()
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    @property
    def base(self) -> Arm:
        """The reference arm."""
        return self.arms[0]

    @cached_property
    def gaps(self) -> dict[str, Gap]:
        """Differences from the first arm, paired by seed, with Student's 95 % interval."""
        found = {}
        unit = " points" if self.metric.unit == "%" else ""
        level = 1 - 0.05 / max(len(self.arms) - 1, 1)
        for arm in self.arms[1:]:
            seeds = [seed for seed in sorted(arm.scores) if seed in self.base.scores]
            values = [self.metric.scale * (arm.scores[seed] - self.base.scores[seed]) for seed in seeds]
            if not values:
                continue
            mean = sum(values) / len(values)
            low, high = student_interval(values) or (None, None)
            corrected = student_interval(values, level)
            alone = corrected is not None and corrected[0] <= 0 <= corrected[1]
            found[arm.name] = Gap(mean, low, high, unit, alone)
        return found

    def spread(self, arm: Arm) -> Spread:
        """Return the mean and standard deviation of an arm in the metric's unit."""
        return Spread.of([self.metric.scale * score for score in arm.scores.values()])


def contest_of(path: Path, label: str) -> Contest:
    """Read the compare.json of `search compare` or `train compare`.

    Raises:
        InputError: The file belongs to neither of them.
    """
    if b'"strategies"' in read_bytes(path, "comparison", JOURNAL):
        return _of_searches(SearchComparison.read(path), label)
    return _of_trainings(TrainingComparison.read(path), label)


def contests_of_cells(cells: Mapping[str, ReproducedCell]) -> Iterator[Contest]:
    """Yield a contest for each network and condition of a reproduction with at least two arms that have scores."""
    groups: dict[tuple[str, str, str], dict[str, list[ReproducedCell]]] = {}
    for cell in cells.values():
        if cell.stage == "final" and cell.result.test_accuracy is not None:
            key = f"{cell.protocol}, version {cell.version}", cell.network, cell.condition
            groups.setdefault(key, {}).setdefault(cell.arm, []).append(cell)
    for (protocol, network, condition), found in groups.items():
        arms = [
            Arm(
                name,
                {cell.seed: cell.result.test_accuracy or 0.0 for cell in each},
                each[0].result.branches,
                sum(cell.result.seconds for cell in each) / len(each),
            )
            for name, each in found.items()
        ]
        arms.sort(key=lambda arm: arm.name != _BASE)
        if len(arms) > 1:
            metric = next(iter(found.values()))[0].result.by
            title = f"{network} on {protocol}, {condition}"
            yield Contest(title, f"test {metric.name}, fused", metric, tuple(arms))


def _of_trainings(found: TrainingComparison, label: str) -> Contest:
    arms = tuple(
        Arm(
            name,
            {run.seed: run.test_accuracy for run in found.of(name)},
            found.of(name)[0].branches,
            _mean([run.seconds for run in found.of(name)]),
        )
        for name in found.presets
    )
    title = f"{label}: {found.network} on {found.dataset}"
    return Contest(title, f"test {found.by.name}, fused", found.by, arms, found.notes)


def _of_searches(found: SearchComparison, label: str) -> Contest:
    arms = tuple(
        Arm(
            name,
            {run.seed: _score(run) for run in found.of(name)},
            round(_mean([run.branches for run in found.of(name)])),
            _mean([run.seconds for run in found.of(name)]),
        )
        for name in found.strategies
    )
    curves = {}
    for name in found.strategies:
        columns = zip(*(run.best_so_far for run in found.of(name)), strict=False)
        means = [found.by.scale * _mean(column) for column in columns]
        curves[name] = tuple(zip(map(float, found.of(name)[0].evaluations), means, strict=False))
    figure = "test {}, retrained and fused" if found.retrained else "search-validation {}, shared weights"
    title = f"{label}: strategies of a search"
    return Contest(title, figure.format(found.by.name), found.by, arms, found.notes, curves)


def _score(run: ComparedSearch) -> float:
    return run.val_accuracy if run.retrained_test is None else run.retrained_test


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
