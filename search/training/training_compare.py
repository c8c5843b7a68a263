"""Compare presets with the same network, recipe and seeds, each training in its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from irepdeploy.errors import InputError, choices, few
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.presets import PRESETS
from irepdeploy.runs.comparison import ComparedTraining, TrainingComparison

from ..execution.device import ranks_of
from ..execution.progress import Advance, labelled
from ..execution.ranks import Ranks
from ..execution.run_folder import own_folder
from .training import Training

__all__ = ["PLAIN", "compare_presets"]

PLAIN = "plain"


def compare_presets(
    recipe: Recipe,
    presets: Sequence[str],
    seeds: int,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    advance: Advance = lambda epochs, note: None,
    ranks: Ranks | None = None,
) -> TrainingComparison:
    """Train the recipe's network with each preset and with `seeds` seeds, starting from the recipe's."""
    _check(presets, seeds)
    ranks = ranks_of(recipe) if ranks is None else ranks
    numbers = range(recipe.seed, recipe.seed + seeds)
    runs = []
    for preset in presets:
        for seed in numbers:
            branches = "none" if preset == PLAIN else preset
            plan = recipe.model_copy(update={"branches": branches, "seed": seed})
            with own_folder(out / f"{preset}-{seed}", ranks) as folder:
                training = Training(plan, folder, None, resume=resume, overwrite=overwrite, ranks=ranks)
                training.require_test()
                result = training.run(labelled(advance, f"{preset}, seed {seed}"))
            runs.append(ComparedTraining(preset=preset, seed=seed, **result.model_dump()))
    found = TrainingComparison(
        network=recipe.net.label,
        dataset=recipe.data.label,
        presets=tuple(presets),
        seeds=tuple(numbers),
        runs=tuple(runs),
    )
    if ranks.first:
        found.write(out / "compare.json")
    return found


def _check(presets: Sequence[str], seeds: int) -> None:
    known = (PLAIN, *PRESETS)
    for preset in presets:
        if preset not in known:
            raise InputError(f"unknown preset {preset!r}", where="--presets", hint=choices(preset, known))
    if not presets:
        raise InputError("no preset is named", where="--presets", hint=f"some of {few(known)}")
    if len(set(presets)) < len(presets):
        raise InputError("name each preset once", where="--presets", hint="--presets plain,acnet,ireps")
    if seeds < 1:
        raise InputError("expected at least one seed", where="--seeds")
