"""Time that the cells of a protocol take on one core, estimated from a plain step of the network.

A branch costs about as much as the fixed operation (compact6 on one core, a step of 128 images: 0.037 s plain, 0.364 s
with nine branches, 0.103 s merged), and a forward pass a third of a step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from irepdeploy.recipe import Recipe, SearchSection, load_recipe

from ..execution.shipped import recipe_path
from .cells import Cell
from .measure import BATCHES, RECALIBRATIONS
from .protocol import Network

__all__ = ["hours_of", "total_hours"]

_A_BRANCH = 0.98
_MERGED = 2.8
_FORWARD = 1 / 3
_FUSE_AT = "train.fuse_at="
_EXACT = "train.step=exact"
_BRANCHES = {"none": 0.0, "repvgg": 2.0, "acnet": 2.0, "dbb": 3.0, "repnas": 6.0}
_ALL = 9.0


def hours_of(cell: Cell, *, merged: bool = False) -> float | None:
    """Return the hours of a cell on one core, including its search; None if the step time of the network is unknown."""
    step, condition = cell.network.step_seconds, cell.condition
    if step is None or condition.images is None or condition.epochs is None:
        return None
    recipe = _recipe(cell.network)
    steps = -(-condition.images // condition.batch)
    scoring = recipe.data.options.get("val", 0) / condition.batch * _FORWARD
    possible = _BRANCHES.get(cell.arm.branches, _ALL)
    kept = _kept(cell.arm.budget, possible)
    whole = 1 + _A_BRANCH * kept
    if cell.stage == "timing":
        # Naive evaluation with two batch sizes, and fused evaluation.
        return step * recipe.search.population * (2 * whole + 1) * scoring / 3600
    if cell.stage == "scoring":
        # Without the search, which belongs to another cell.
        anew = RECALIBRATIONS * (BATCHES * whole * _FORWARD + scoring)
        return step * recipe.search.population * (scoring + anew) / 3600
    share = next((float(each.partition("=")[2]) for each in cell.arm.changes if each.startswith(_FUSE_AT)), 1.0)
    factor = share * _factor(kept, merged and _EXACT not in cell.arm.changes) + 1 - share
    training = condition.epochs * (steps * factor + scoring)
    search = 0.0
    if cell.stage != "trial" and cell.arm.strategy is not None:
        search = _search(recipe.search, steps, _factor(possible, merged), _factor(kept, merged), scoring)
    return step * (training + search) / 3600


def total_hours(cells: Iterable[Cell], *, merged: bool = False) -> float | None:
    """Return the hours of all cells on one core; None if those of any cell are unknown."""
    total = 0.0
    for cell in cells:
        hours = hours_of(cell, merged=merged)
        if hours is None:
            return None
        total += hours
    return total


@functools.cache
def _recipe(network: Network) -> Recipe:
    return load_recipe(recipe_path(network.recipe), network.overrides)


def _factor(branches: float, merged: bool) -> float:
    exact = 1 + _A_BRANCH * branches
    return min(exact, _MERGED) if merged else exact


def _kept(budget: str | None, possible: float) -> float:
    if budget is None:
        return possible
    number, per_block, _ = budget.partition("/block")
    if per_block:
        return float(number)
    numerator, _, denominator = budget.partition("/")
    return possible * int(numerator) / int(denominator or 1)


def _search(settings: SearchSection, steps: int, whole: float, subnet: float, scoring: float) -> float:
    epochs = settings.evolutions * settings.epochs_per_evolution
    training = steps * (settings.warmup_epochs * whole + epochs * settings.subnets_per_step * subnet)
    return training + settings.evolutions * settings.population * scoring
