"""Compare strategies: the same evaluations, seeds and logging, each run in its own folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from irepdeploy.errors import InputError
from irepdeploy.recipe import Recipe
from irepdeploy.runs.comparison import ComparedSearch, SearchComparison
from irepdeploy.runs.journal import JOURNAL, SearchJournal

from .engine import Search
from .execution.device import ranks_of
from .execution.progress import Advance, labelled
from .execution.ranks import Ranks
from .execution.run_folder import own_folder
from .strategies import STRATEGIES
from .training.training import Training

__all__ = ["compare", "epochs_of"]


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
) -> SearchComparison:
    """Run each strategy with each seed into ``out/STRATEGY-seedN`` and write ``out/compare.json``.

    Seeds start from the recipe's. `retrain` also trains the Architecture that each run chose, and reads the test set
    once for each; `resume` reads finished runs instead of repeating them.
    """
    _check(strategies, seeds)
    ranks = ranks_of(recipe) if ranks is None else ranks
    folders = {
        (name, seed): out / f"{name}-seed{seed}"
        for name in strategies
        for seed in range(recipe.seed, recipe.seed + seeds)
    }
    there = [folder for folder in folders.values() if (folder / JOURNAL).exists()]
    if there and not resume and not overwrite:
        raise InputError(
            "this folder already holds a run",
            where=there[0],
            hint="--resume continues it, --overwrite starts over, or choose another --out",
        )
    # No rank starts writing before all ranks have checked the folder.
    ranks.barrier()
    runs = []
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
                trained = training.run(say)
        journal = SearchJournal.read(folder)
        if not journal.finished:
            raise InputError("evolutions of the finished search are missing", where=folder / JOURNAL)
        evolutions = journal.evolutions
        runs.append(
            ComparedSearch(
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
        )
    seeds_run = tuple(range(recipe.seed, recipe.seed + seeds))
    found = SearchComparison(strategies=tuple(strategies), seeds=seeds_run, runs=tuple(runs))
    if ranks.first:
        found.write(out / "compare.json")
    return found


def epochs_of(recipe: Recipe, retrain: bool) -> int:
    """Return the epochs of one run of a comparison, warm-up and retraining included."""
    search = recipe.search
    own = search.warmup_epochs + search.evolutions * search.epochs_per_evolution
    return own + (recipe.train.epochs if retrain else 0)


def _check(strategies: Sequence[str], seeds: int) -> None:
    for name in strategies:
        if name not in STRATEGIES:
            raise InputError(f"no strategy {name!r}", where="--strategies", hint=f"some of {','.join(STRATEGIES)}")
    if not strategies or len(set(strategies)) < len(strategies):
        raise InputError("name each strategy once", where="--strategies", hint=",".join(STRATEGIES))
    if seeds < 1:
        raise InputError("expected at least one seed", where="--seeds")
