"""compare.json: strategies or presets compared over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Self

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from irepdeploy.runs.result import TrainingResult
from irepdeploy.runs.schema import (
    Amount,
    Count,
    Digest,
    JsonFile,
    MetricFacts,
    Number,
    Schema,
    Score,
    Scored,
    Share,
    check_shares,
)
from irepdeploy.runs.spread import Spread

__all__ = ["ComparedSearch", "ComparedTraining", "SearchComparison", "SearchJob", "TrainingComparison"]

_SEARCH_NOTES = (
    "Search accuracies use the shared weights of each run's own supernet, which overrate the subnets of a strategy that"
    " trains only a few. Only retrained accuracies compare strategies fairly.",
    "The spread is the standard deviation over seeds; differences are paired by seed.",
)
_TRAINING_NOTES = (
    "All accuracies are those of the fused network of the best epoch, chosen on the search-validation set. The test set"
    " was read once in each training, at its end.",
    "The spread is the standard deviation over seeds; differences are paired by seed. A difference smaller than about"
    " twice its spread divided by the square root of the number of seeds is noise.",
)


class ComparedSearch(Schema):
    """The figures of one search. Accuracies may be scores by another metric; see `SearchComparison.metric`.

    `evaluations`, `best_so_far`, `mean` and `diversity` have one value per evolution. Accuracies are measured with the
    shared weights on the search-validation set. `val_accuracy`, `branches` and `digest` describe the chosen
    Architecture, the best of the last evolution; `retrained_val` and `retrained_test` are its scores when retrained and
    fused.
    """

    strategy: StrictStr
    seed: StrictInt
    evaluations: Annotated[tuple[Count, ...], Field(min_length=1)]
    best_so_far: tuple[Score, ...]
    mean: tuple[Score, ...]
    diversity: tuple[Share, ...]
    val_accuracy: Score
    branches: Count
    digest: Digest
    seconds: Amount
    retrained_val: Score | None = None
    retrained_test: Score | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        sizes = {len(getattr(self, name)) for name in ("evaluations", "best_so_far", "mean", "diversity")}
        if len(sizes) > 1:
            raise ValueError("expected one value per evolution in evaluations, best_so_far, mean and diversity")
        if (self.retrained_val is None) != (self.retrained_test is None):
            raise ValueError("only one of retrained_val and retrained_test is given")
        return self

    def check_scores(self, metric: MetricFacts) -> None:
        """Raise ValueError if a score is outside the range of the metric."""
        names = ("val_accuracy", "retrained_val", "retrained_test")
        check_shares(metric, {name: getattr(self, name) for name in names})
        for name in ("best_so_far", "mean"):
            for value in getattr(self, name):
                check_shares(metric, {name: value})


Figure = Callable[[ComparedSearch], float]


class SearchJob(Scored, JsonFile):
    """The runs of one job of a comparison.

    `number` counts from 1 to `count`, the number of jobs; `recipe` is the digest of the settings that all jobs share.
    """

    kind = "job.json of a comparison"
    hint = "`irepdeploy search compare --job` writes it once the job's runs have ended"

    number: Number
    count: Number
    network: StrictStr
    dataset: StrictStr
    recipe: Digest
    strategies: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    seeds: Annotated[tuple[StrictInt, ...], Field(min_length=1)]
    retrain: StrictBool
    runs: Annotated[tuple[ComparedSearch, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_its_runs(self) -> Self:
        if self.number > self.count:
            raise ValueError(f"expected number of at most {self.count}, got {self.number}")
        named = [(name, seed) for name in self.strategies for seed in self.seeds][self.number - 1 :: self.count]
        if [(run.strategy, run.seed) for run in self.runs] != named:
            raise ValueError("the runs are not those of this job")
        for run in self.runs:
            run.check_scores(self.by)
        return self


class SearchComparison(Scored, JsonFile):
    """All searches of a comparison, grouped by strategy; differences are relative to the first strategy."""

    kind = "compare.json of a search"
    hint = "`irepdeploy search compare` writes it"

    strategies: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    seeds: tuple[StrictInt, ...]
    runs: Annotated[tuple[ComparedSearch, ...], Field(min_length=1)]
    notes: tuple[StrictStr, ...] = _SEARCH_NOTES

    @model_validator(mode="after")
    def _has_every_run(self) -> Self:
        _check_runs(self.strategies, self.seeds, ((run.strategy, run.seed) for run in self.runs))
        for run in self.runs:
            run.check_scores(self.by)
        return self

    def of(self, strategy: str) -> list[ComparedSearch]:
        """Return the runs of a strategy, ordered by seed."""
        return [run for run in self.runs if run.strategy == strategy]

    @property
    def retrained(self) -> bool:
        """Whether every run's Architecture was retrained."""
        return all(run.retrained_test is not None for run in self.runs)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column headings of `rows`."""
        return ("strategy", "scored", *(name for name, _ in self._figures), "seconds")

    @property
    def rows(self) -> list[list[str]]:
        """A row per strategy: mean and standard deviation over seeds, and the difference to the first strategy."""
        rows = []
        for name in self.strategies:
            runs, first = self.of(name), self.of(self.strategies[0])
            cells = []
            for _, figure in self._figures:
                text = Spread.of([figure(run) for run in runs]).text
                if name != self.strategies[0]:
                    gains = [figure(one) - figure(base) for one, base in zip(runs, first, strict=True)]
                    text += f" ({Spread.of(gains).signed})"
                cells.append(text)
            seconds = Spread.of([run.seconds for run in runs]).mean
            rows.append([name, str(runs[0].evaluations[-1]), *cells, f"{seconds:.1f}"])
        return rows

    @property
    def _figures(self) -> list[tuple[str, Figure]]:
        scale, unit = self.by.scale, _unit(self.by)
        found: list[tuple[str, Figure]] = [
            (f"best so far{unit}", lambda run: scale * run.best_so_far[-1]),
            (f"chosen{unit}", lambda run: scale * run.val_accuracy),
            ("diversity %", lambda run: 100 * run.diversity[-1]),
        ]
        if self.retrained:
            found += [
                (f"retrained, validation{unit}", lambda run: scale * (run.retrained_val or 0)),
                (f"retrained, test{unit}", lambda run: scale * (run.retrained_test or 0)),
            ]
        return found


class ComparedTraining(TrainingResult):
    """One training run of a comparison."""

    test_accuracy: Score
    preset: StrictStr
    seed: StrictInt


class TrainingComparison(JsonFile):
    """All trainings of a comparison, grouped by preset; differences are relative to the first preset."""

    kind = "compare.json of a training"
    hint = "`irepdeploy train compare` writes it"

    network: StrictStr
    dataset: StrictStr
    presets: Annotated[tuple[StrictStr, ...], Field(min_length=1)]
    seeds: tuple[StrictInt, ...]
    runs: Annotated[tuple[ComparedTraining, ...], Field(min_length=1)]
    notes: tuple[StrictStr, ...] = _TRAINING_NOTES

    @model_validator(mode="after")
    def _has_every_run(self) -> Self:
        _check_runs(self.presets, self.seeds, ((run.preset, run.seed) for run in self.runs))
        return self

    def of(self, preset: str) -> list[ComparedTraining]:
        """Return the trainings with a preset, ordered by seed."""
        return [run for run in self.runs if run.preset == preset]

    @property
    def columns(self) -> tuple[str, ...]:
        """The column headings of `rows`."""
        unit = _unit(self.by)
        return ("preset", "branches", f"test{unit}", "difference", f"validation{unit}", "seconds per epoch")

    @property
    def by(self) -> MetricFacts:
        """The metric of all runs."""
        return self.runs[0].by

    @property
    def rows(self) -> list[list[str]]:
        """A row per preset: mean and standard deviation over seeds."""
        first, scale = self.of(self.presets[0]), self.by.scale
        rows = []
        for preset in self.presets:
            found = self.of(preset)
            gains = [one.test_accuracy - base.test_accuracy for one, base in zip(found, first, strict=True)]
            rows.append(
                [
                    preset,
                    str(found[0].branches),
                    Spread.of([scale * each.test_accuracy for each in found]).text,
                    "-" if preset == self.presets[0] else Spread.of([scale * gain for gain in gains]).signed,
                    Spread.of([scale * each.val_accuracy for each in found]).text,
                    f"{Spread.of([each.seconds_per_epoch for each in found]).mean:.2f}",
                ]
            )
        return rows


def _unit(metric: MetricFacts) -> str:
    return " %" if metric.unit == "%" else f" ({metric.name})"


def _check_runs(names: Iterable[str], seeds: Iterable[int], runs: Iterable[tuple[str, int]]) -> None:
    found, expected = Counter(runs), Counter((name, seed) for name in names for seed in seeds)
    wrong = next(iter([*(found - expected), *(expected - found)]), None)
    if wrong is not None:
        state = "missing" if found[wrong] < expected[wrong] else "not among those compared, or repeated"
        raise ValueError(f"the run of {wrong[0]} with seed {wrong[1]} is {state}")
