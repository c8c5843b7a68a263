"""Measure whether candidates should be scored with recalibrated batch-normalization statistics.

The statistics of a supernet are shared: each is an average over the subnets that a branch took part in. Recalibrating
them for every candidate takes an extra pass over the training images per candidate. This tool measures the benefit: how
well rankings by shared and by recalibrated statistics agree with the ranking after retraining, and how well two
retrainings with different seeds agree, which is the upper limit.

Run ``python -m irepdeploy.bench.tools.bn_recalibration [FILE.jsonl [CANDIDATES [SEEDS [KEY=VALUE...]]]]``.
"""

from __future__ import annotations

import itertools
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from torch import Tensor

from irepdeploy.console import log, table
from irepdeploy.data import Dataset
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.reparam.fuse import fuse
from irepdeploy.runtime.memory_format import channels_last
from irepdeploy.search.engine import Search
from irepdeploy.search.evaluation.evaluate import PopulationEvaluator
from irepdeploy.search.evaluation.fitness import Fitness, score
from irepdeploy.search.evaluation.recalibration import recalibrate
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.supernet.builders import build_net, load_data, with_branches
from irepdeploy.search.supernet.space import Bits
from irepdeploy.search.training.training import Training

from .harness import keep_line

__all__ = ["measure_recalibration"]

_BATCH = 50


def measure_recalibration(recipe: Recipe, candidates: int, seeds: int, folder: Path) -> dict[str, Any]:
    """Run a search, draw candidates within the budget, and score each in three ways."""
    search = Search(recipe, folder / "search", resume=True)
    search.run()
    budget = search.space.budget(recipe.search.budget)
    random = np.random.default_rng(recipe.seed)
    drawn: dict[bytes, Bits] = {}
    while len(drawn) < candidates:
        bits = budget.uniform(random)
        drawn[bits.tobytes()] = bits
    population = list(drawn.values())
    shared = PopulationEvaluator(search.supernet, search.data.val).evaluate(population)
    own = [_own_statistics(recipe, search, bits) for bits in population]
    retrained: list[list[float]] = []
    for seed in range(seeds):
        plan = recipe.model_copy(update={"seed": recipe.seed + seed})
        accuracies = []
        for number, bits in enumerate(population):
            at = folder / f"train-seed{seed}" / f"{number:03d}"
            found = Training(plan, at, search.space.architecture(bits), resume=True).run()
            accuracies.append(found.val_accuracy)
            log(f"retrained {seed * candidates + number + 1} of {seeds * candidates}")
        retrained.append(accuracies)
    return {
        "network": recipe.net.name,
        "dataset": recipe.data.name,
        "candidates": candidates,
        "shared": [(each.value, each.negative_loss) for each in shared],
        "recalibrated": [(each.value, each.negative_loss) for each in own],
        "retrained": retrained,
        **_agreement(shared, own, retrained),
    }


def _own_statistics(recipe: Recipe, search: Search, bits: Bits) -> Fitness:
    data = load_data(recipe)
    net = with_branches(build_net(recipe, data), search.space.architecture(bits))
    weights = search.supernet.model.state_dict()
    net.load_state_dict({name: weights[name] for name in net.state_dict()})
    recalibrate(channels_last(net), _batches(data))
    return score(channels_last(fuse(net, prove=False)), data.val)


def _batches(data: Dataset) -> Iterator[Tensor]:
    for start in range(0, len(data.train), _BATCH):
        images = data.train.images[start : start + _BATCH]
        if len(images) > 1:
            yield channels_last(images)


def _agreement(
    shared: Sequence[Fitness], own: Sequence[Fitness], retrained: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Return Kendall's tau-b between all rankings, with accuracy ties broken by the loss where known."""
    by_shared, by_own = _ranks(shared), _ranks(own)
    mean = [statistics.fmean(values) for values in zip(*retrained, strict=True)]
    pairs = [_tau(one, other) for one, other in itertools.combinations(retrained, 2)]
    known = [tau for tau in pairs if tau is not None]
    found = {
        "shared against recalibrated": _tau(by_shared, by_own),
        "shared against retrained": _tau(by_shared, mean),
        "recalibrated against retrained": _tau(by_own, mean),
        "one retraining against another": statistics.fmean(known) if known else None,
    }
    return {"kendall": found}


def _tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Kendall's tau-b, or None if one of the rankings is constant."""
    tau = float(kendalltau(one, other).statistic)
    return None if math.isnan(tau) else tau


def _ranks(fitness: Sequence[Fitness]) -> list[int]:
    order = sorted(set(fitness))
    return [order.index(each) for each in fitness]


def main(record: str | None = None, candidates: str = "32", seeds: str = "2", *overrides: str) -> None:
    """Measure on the digits, print a table, and append the figures to `record`."""
    recipe = load_recipe(recipe_path("digits"), list(overrides))
    with tempfile.TemporaryDirectory() as folder:
        found = measure_recalibration(recipe, int(candidates), int(seeds), Path(folder))
    rows = [[name, "-" if tau is None else f"{tau:.3f}"] for name, tau in found["kendall"].items()]
    accuracy = [100 * value for value, _ in found["recalibrated"]]
    title = f"Rankings of {candidates} candidates on {recipe.data.name}, retrained with {seeds} seeds"
    table(title, ["rankings", "Kendall's tau-b"], rows)
    print(
        f"accuracy by shared statistics {100 * statistics.fmean(value for value, _ in found['shared']):.1f} %,"
        f" recalibrated {statistics.fmean(accuracy):.1f} %"
    )
    keep_line(record, "bn recalibration", overrides=list(overrides), **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
