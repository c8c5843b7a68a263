"""Strategies held against each other: the same evaluations, seeds and logging, each run in a folder of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import InputError
from irepdeploy.files import output_folder, write_json
from irepdeploy.plots.search_run import read_search
from irepdeploy.recipe import Recipe

from .engine import Search
from .execution.device import ranks_of
from .execution.ranks import Ranks
from .execution.spread import Spread
from .strategies import STRATEGIES
from .training.training import Training

__all__ = ["ComparedRun", "Comparison", "compare", "diversity", "epochs_of"]

Advance = Callable[[int, str], None]

_NOTES = (
    "Search accuracies are by the shared weights of each run's own supernet: a strategy that trains few subnets scores"
    " them higher than they are worth. Only retrained accuracies compare strategies fairly.",
    "The spread is the standard deviation over seeds; differences are taken seed by seed.",
)


@dataclass(frozen=True)
class ComparedRun:
    """One search, as its journal tells it; one value an evolution in each tuple.

    Args:
        evaluations: candidates scored so far.
        best_so_far, mean: accuracy on the search-validation set, by shared weights.
        diversity: of the scored population, as `diversity` says it.
        val_accuracy: of the chosen Architecture, the best of the last evolution, by shared weights.
        retrained_val, retrained_test: of that Architecture trained anew and fused, or None.
    """

    strategy: str
    seed: int
    evaluations: tuple[int, ...]
    best_so_far: tuple[float, ...]
    mean: tuple[float, ...]
    diversity: tuple[float, ...]
    val_accuracy: float
    branches: int
    digest: str
    seconds: float
    retrained_val: float | None = None
    retrained_test: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All runs, strategy by strategy in the order that was asked for."""

    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[ComparedRun, ...]

    def of(self, strategy: str) -> list[ComparedRun]:
        """The runs of a strategy by seed."""
        return [run for run in self.runs if run.strategy == strategy]

    def spread(self, strategy: str, figure: Callable[[ComparedRun], float]) -> Spread:
        """A figure of a strategy over its seeds."""
        return Spread.of([figure(run) for run in self.of(strategy)])

    def difference(self, strategy: str, figure: Callable[[ComparedRun], float]) -> Spread:
        """A figure of a strategy less that of the first one, seed by seed."""
        pairs = zip(self.of(strategy), self.of(self.strategies[0]), strict=True)
        return Spread.of([figure(one) - figure(first) for one, first in pairs])

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads of `rows`."""
        return ("strategy", "scored", *(name for name, _ in self._figures), "seconds")

    @property
    def rows(self) -> list[list[str]]:
        """A line a strategy: mean and standard deviation over seeds, and what it has more than the first strategy."""
        rows = []
        for name in self.strategies:
            cells = []
            for _, figure in self._figures:
                text = self.spread(name, figure).text
                if name != self.strategies[0]:
                    text += f" ({self.difference(name, figure).signed})"
                cells.append(text)
            seconds = self.spread(name, lambda run: run.seconds).mean
            rows.append([name, str(self.of(name)[0].evaluations[-1]), *cells, f"{seconds:.1f}"])
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures are and are not."""
        return _NOTES

    @property
    def _figures(self) -> list[tuple[str, Callable[[ComparedRun], float]]]:
        found: list[tuple[str, Callable[[ComparedRun], float]]] = [
            ("best so far %", lambda run: 100 * run.best_so_far[-1]),
            ("chosen %", lambda run: 100 * run.val_accuracy),
            ("diversity %", lambda run: 100 * run.diversity[-1]),
        ]
        if all(run.retrained_test is not None for run in self.runs):
            found += [
                ("retrained, validation %", lambda run: 100 * (run.retrained_val or 0)),
                ("retrained, test %", lambda run: 100 * (run.retrained_test or 0)),
            ]
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of compare.json."""
        return {
            "strategies": list(self.strategies),
            "seeds": list(self.seeds),
            "runs": [asdict(run) for run in self.runs],
            "notes": list(_NOTES),
        }


def compare(
    recipe: Recipe,
    out: Path,
    strategies: Sequence[str],
    seeds: int,
    *,
    retrain: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    advance: Advance = lambda epochs, note: None,
    ranks: Ranks | None = None,
) -> Comparison:
    """Run each strategy with each seed into ``out/STRATEGY-seedN`` and write ``out/compare.json``.

    Args:
        strategies: names; the first is what the others are held against.
        seeds: how many, from the recipe's on.
        retrain: train the Architecture that each run chose, and read the test set once for each.
        resume: go on with the runs that are there; finished ones are read.
        advance: called with epochs done since the last call, and a short text.
        ranks: the processes that divide each search and training; None: those of torchrun, or this one alone.

    Raises:
        InputError: an unknown strategy or one named twice, or runs are there and neither `resume` nor `overwrite` was
            asked for.
        RecipeError, OutputError, RunError: as `Search` and `Training` raise them.
    """
    _check(strategies, seeds)
    ranks = ranks_of(recipe) if ranks is None else ranks
    output_folder(out)
    folders = {
        (name, seed): out / f"{name}-seed{seed}"
        for name in strategies
        for seed in range(recipe.seed, recipe.seed + seeds)
    }
    there = [folder for folder in folders.values() if (folder / "journal.jsonl").exists()]
    if there and not resume and not overwrite:
        raise InputError(
            "a run is in this folder already",
            where=there[0],
            hint="--resume goes on with it, --overwrite begins anew, or choose another --out",
        )
    # No rank begins to write before all have looked.
    ranks.barrier()
    runs = []
    for (name, seed), folder in folders.items():
        plan = recipe.model_copy(
            update={"seed": seed, "search": recipe.search.model_copy(update={"strategy": name})}, deep=True
        )
        say = _labelled(advance, f"{name}, seed {seed}")
        search = Search(plan, folder, resume=resume, overwrite=overwrite, ranks=ranks)
        result = search.run(say)
        trained = None
        if retrain:
            training = Training(plan, folder / "train", result.best, resume=resume, overwrite=overwrite, ranks=ranks)
            trained = training.run(say)
        evolutions = read_search(folder / "journal.jsonl").evolutions
        sizes = [len(event["accuracy"]) for event in evolutions]
        runs.append(
            ComparedRun(
                name,
                seed,
                tuple(int(total) for total in np.cumsum(sizes)),
                tuple(float(best) for best in np.maximum.accumulate([event["best"] for event in evolutions])),
                tuple(event["mean"] for event in evolutions),
                tuple(diversity(event["population"]) for event in evolutions),
                result.fitness.accuracy,
                result.best.count,
                result.best.digest,
                result.seconds,
                None if trained is None else trained.val_accuracy,
                None if trained is None else trained.test_accuracy,
            )
        )
    found = Comparison(tuple(strategies), tuple(range(recipe.seed, recipe.seed + seeds)), tuple(runs))
    if ranks.first:
        write_json(out / "compare.json", found.to_dict())
    return found


def epochs_of(recipe: Recipe, retrain: bool) -> int:
    """Epochs of one run of a comparison, warm-up and retraining included."""
    search = recipe.search
    own = search.warmup_epochs + search.evolutions * search.epochs_per_evolution
    return own + (recipe.train.epochs if retrain else 0)


def diversity(population: Sequence[str]) -> float:
    """Mean Hamming distance of all pairs of a population, as a share of the possible branches.

    Args:
        population: one text of 0 and 1 a candidate, as the journal has them.
    """
    bits = np.array([[character == "1" for character in text] for text in population])
    count = len(bits)
    if count < 2:
        return 0.0
    ones = bits.sum(0)
    # Of each position, the pairs that differ in it.
    return float((ones * (count - ones)).sum() / math.comb(count, 2) / bits.shape[1])


def _check(strategies: Sequence[str], seeds: int) -> None:
    for name in strategies:
        if name not in STRATEGIES:
            raise InputError(f"no strategy {name!r}", where="--strategies", hint=f"some of {','.join(STRATEGIES)}")
    if not strategies or len(set(strategies)) < len(strategies):
        raise InputError("name each strategy once", where="--strategies", hint=",".join(STRATEGIES))
    if seeds < 1:
        raise InputError("at least one seed", where="--seeds")


def _labelled(advance: Advance, label: str) -> Advance:
    return lambda epochs, note: advance(epochs, f"{label}  {note}")
