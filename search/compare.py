"""Compare search strategies with equal numbers of evaluations and the same seeds, each run in its own folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.recipe import Recipe
from irepdeploy.runs.comparison import ComparedSearch, SearchComparison
from irepdeploy.runs.journal import JOURNAL
from irepdeploy.runs.result import TrainingResult
from irepdeploy.runs.schema import MetricFacts

from .engine import Search
from .execution.device import ranks_of
from .execution.progress import Advance, labelled
from .execution.ranks import Ranks
from .execution.run_folder import begun_by, holds_a_run, own_folder
from .result import SearchResult
from .strategies import STRATEGIES
from .training.training import Training

__all__ = ["check_names", "compare", "epochs_of", "runs_of", "search_each"]

Named = tuple[str, int]


def compare(
    recipe: Recipe,
    out: Path,
    strategies: Sequence[str],
    seeds: int,
    *,
    retrain: bool = False,
    ranks: Ranks | None = None,
    **options: Any,
) -> SearchComparison:
    """Run each strategy with each seed into ``out/STRATEGY-seedN`` and write ``out/compare.json``.

    Args:
        recipe: Settings of every run; its seed is the first one.
        out: Folder of the comparison.
        strategies: Names of strategies; the first one is the reference.
        seeds: Number of seeds.
        retrain: Also train the Architecture that each run chose, and read the test set once for each.
        ranks: Processes of the run; by default those that torchrun started, or this process alone.
        options: `resume`, which reads finished runs instead of repeating them, `overwrite` and `advance`.

    Raises:
        InputError: A strategy is unknown or named twice, there is no seed, or a folder already holds a run.
    """
    check_names(strategies, seeds)
    ranks = ranks_of(recipe) if ranks is None else ranks
    named = runs_of(recipe, strategies, seeds)
    runs, metric = search_each(recipe, out, named, retrain=retrain, ranks=ranks, **options)
    found = SearchComparison(
        strategies=tuple(strategies), seeds=tuple(dict.fromkeys(seed for _, seed in named)), runs=runs, metric=metric
    )
    if ranks.first:
        found.write(out / "compare.json")
    return found


def runs_of(recipe: Recipe, strategies: Sequence[str], seeds: int) -> list[Named]:
    """Return the strategy and seed of every run of a comparison."""
    return [(name, seed) for name in strategies for seed in range(recipe.seed, recipe.seed + seeds)]


def search_each(
    recipe: Recipe,
    out: Path,
    named: Sequence[Named],
    *,
    retrain: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    advance: Advance = lambda epochs, note: None,
    ranks: Ranks,
) -> tuple[tuple[ComparedSearch, ...], MetricFacts | None]:
    """Run the searches of a comparison, each in its own folder; return their results and the metric."""
    folders = {(name, seed): out / f"{name}-seed{seed}" for name, seed in named}
    there = [each for each in folders.values() if (each / JOURNAL).exists() and not begun_by(ranks, each)]
    if there and not resume and not overwrite:
        raise holds_a_run(there[0])
    # No rank starts writing before all ranks have checked the folder.
    ranks.barrier()
    runs = []
    metric = None
    for (name, seed), folder in folders.items():
        plan = recipe.model_copy(
            update={"seed": seed, "search": recipe.search.model_copy(update={"strategy": name})}, deep=True
        )
        say = labelled(advance, f"{name}, seed {seed}")
        trained = None
        with own_folder(folder, ranks):
            result = Search(plan, folder, resume=resume, overwrite=overwrite, ranks=ranks).run(say)
            if retrain:
                at = folder / "train"
                training = Training(plan, at, result.best, resume=resume, overwrite=overwrite, ranks=ranks)
                training.require_test()
                trained = training.run(say)
            # Other ranks may not see the folder.
            found = [_compared(name, seed, result, trained)] if ranks.first else []
        runs.append(ranks.gather(found, 1)[0])
        metric = result.figures.metric
    return tuple(runs), metric


def _compared(name: str, seed: int, result: SearchResult, trained: TrainingResult | None) -> ComparedSearch:
    journal = result.journal
    if not journal.finished:
        raise InputError("evolutions of the finished search are missing", where=result.folder / JOURNAL)
    evolutions = journal.evolutions
    return ComparedSearch(
        strategy=name,
        seed=seed,
        evaluations=tuple(itertools.accumulate(len(each.accuracy) for each in evolutions)),
        best_so_far=tuple(itertools.accumulate((each.best for each in evolutions), max)),
        mean=tuple(each.mean for each in evolutions),
        diversity=tuple(each.diversity for each in evolutions),
        val_accuracy=result.fitness.value,
        branches=result.best.count,
        digest=result.best.digest,
        seconds=result.figures.seconds,
        retrained_val=None if trained is None else trained.val_accuracy,
        retrained_test=None if trained is None else trained.test_accuracy,
    )


def epochs_of(recipe: Recipe, retrain: bool) -> int:
    """Return the epochs of one run of a comparison, warm-up and retraining included."""
    search = recipe.search
    own = search.warmup_epochs + search.evolutions * search.epochs_per_evolution
    return own + (recipe.train.epochs if retrain else 0)


def check_names(strategies: Sequence[str], seeds: int) -> None:
    """Raise InputError unless each strategy exists and is named once."""
    for name in strategies:
        if name not in STRATEGIES:
            raise InputError(f"unknown strategy {name!r}", where="--strategies", hint=f"some of {','.join(STRATEGIES)}")
    if not strategies or len(set(strategies)) < len(strategies):
        raise InputError("name each strategy once", where="--strategies", hint=",".join(STRATEGIES))
    if seeds < 1:
        raise InputError("expected at least one seed", where="--seeds")
