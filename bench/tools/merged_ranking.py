"""Measure whether a supernet trained with merged steps ranks candidates like one trained with exact steps.

``python -m irepdeploy.bench.tools.merged_ranking RECORD FOLDER [SEEDS [RECIPE [KEY=VALUE ...]]]`` trains the supernet
of a recipe (default: ``fashion_mnist``) by random search, with both steps and every seed below SEEDS (default: 3), and
scores the same 64 candidates with each. It appends a line to RECORD for each supernet, and continues where it was
stopped, even in the middle of a training. Finally it prints Kendall's tau between the rankings.

The agreement among exact supernets of different seeds is the most that can be expected of a merged one.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from irepdeploy.console import table
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.block import STEPS, Step
from irepdeploy.search.engine import Search
from irepdeploy.search.evaluation.fitness import Fitness
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.supernet.space import Bits

from .agreement import levels
from .harness import keep_line, kept_lines

__all__ = ["BENCHMARK", "COLUMNS", "candidates", "main", "rows_of", "taus"]

BENCHMARK = "merged step, ranking"
COLUMNS = ("supernets", "pairs", "Kendall's tau", "range")
_CANDIDATES = 64
# Seed of the candidates, which are the same for all supernets.
_SEED = 64

# Scores of a supernet, by seed and step.
Scores = Mapping[tuple[Step, int], Sequence[Fitness]]


def main(record: str, folder: str, seeds: str = "3", recipe: str = "fashion_mnist", *overrides: str) -> None:
    """Train the supernets that are missing in the record, and print the results."""
    facts = {"recipe": recipe, "overrides": list(overrides)}
    for seed, step in product(range(int(seeds)), STEPS):
        done = kept_lines(record, BENCHMARK, **facts)
        if not any(line["step"] == step and line["seed"] == seed for line in done):
            figures = _scored(step, seed, Path(folder) / f"{step}, seed {seed}", recipe, overrides)
            keep_line(record, BENCHMARK, step=step, seed=seed, **facts, **figures)
    _show(kept_lines(record, BENCHMARK, **facts))


def candidates(search: Search) -> list[Bits]:
    """Draw distinct candidates within the budget of a search; they depend on neither its seed nor its weights."""
    random, found = np.random.default_rng(_SEED), dict[bytes, Bits]()
    count = min(_CANDIDATES, search.strategy.budget.candidates)
    while len(found) < count:
        bits = search.strategy.budget.uniform(random)
        found[bits.tobytes()] = bits
    return list(found.values())


def taus(scores: Scores) -> dict[str, list[float]]:
    """Return Kendall's tau of each pair of supernets, by kind of comparison; it is 0 for a constant ranking."""
    pairs: dict[str, list[tuple[Sequence[Fitness], Sequence[Fitness]]]] = {
        "exact, exact of another seed": [],
        "merged, exact of the same seed": [],
        "merged, exact of another seed": [],
        "merged, merged of another seed": [],
    }
    for (step, seed), (other, another) in product(scores, scores):
        # The other order of two equal steps is the same pair.
        if (step == other and seed < another) or (step, other) == ("merged", "exact"):
            of = "the same seed" if seed == another else "another seed"
            pairs[f"{step}, {other} of {of}"].append((scores[step, seed], scores[other, another]))
    return {
        name: [float(np.nan_to_num(kendalltau(levels(one), levels(two)).statistic)) for one, two in each]
        for name, each in pairs.items()
    }


def _scored(step: Step, seed: int, out: Path, recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    plan = load_recipe(
        recipe_path(recipe), ["search.strategy=random", *overrides, f"search.step={step}", f"seed={seed}"]
    )
    begun = (out / "state.pt").exists()
    search = Search(plan, out, resume=begun, overwrite=not begun)
    begin, epoch = time.process_time(), search.epoch
    search.run()
    done = search.epoch - epoch
    seconds = (time.process_time() - begin) / done if done else None
    search.evaluator.refresh()
    found = search.evaluator.evaluate(candidates(search))
    return {
        "accuracy": [fitness.value for fitness in found],
        "loss": [-fitness.negative_loss for fitness in found],
        # CPU time, because the machine may be shared, of the epochs since the last start.
        "cpu_seconds_per_epoch": seconds,
    }


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row of `COLUMNS` for each kind of pair of the supernets in a record."""
    scores = {
        (line["step"], line["seed"]): [
            Fitness(value, -loss) for value, loss in zip(line["accuracy"], line["loss"], strict=True)
        ]
        for line in lines
    }
    return [
        [name, str(len(found)), f"{statistics.mean(found):.2f}", f"{min(found):.2f} to {max(found):.2f}"]
        for name, found in taus(scores).items()
        if found
    ]


def _show(lines: Sequence[Mapping[str, Any]]) -> None:
    table("Ranking of the same candidates", COLUMNS, rows_of(lines))
    for step in STEPS:
        times = [line["cpu_seconds_per_epoch"] for line in lines if line["step"] == step]
        known = [seconds for seconds in times if seconds is not None]
        spread = [100 * statistics.pstdev(line["accuracy"]) for line in lines if line["step"] == step]
        if spread:
            took = f"{statistics.median(known):.3g} s of processor time" if known else "unknown"
            print(f"{step}: epoch {took}; accuracies {statistics.mean(spread):.2f} points apart (standard deviation)")


if __name__ == "__main__":
    main(*sys.argv[1:])
