"""Compare merged and exact steps by test accuracy and training time, paired by seed.

``python -m irepdeploy.bench.tools.merged_step RECORD FOLDER [SEEDS [RECIPE [KEY=VALUE ...]]]`` trains the network of a
recipe (default: ``fashion_mnist``) with every estimator of `ESTIMATORS` and every seed below SEEDS (default: 5), and
appends a line to RECORD for each. It continues where it was stopped, even in the middle of a training. Finally it
prints the means over seeds, and the differences from the exact step.

Decision rule: an estimator is kept if its mean test accuracy is within 0.1 points of the exact step's, in at most 0.6
times its time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from irepdeploy.console import table
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.block import Step
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.step import set_step
from irepdeploy.runs.spread import student_interval
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.training.training import Training

from .harness import keep_line, kept_lines

__all__ = ["BENCHMARK", "COLUMNS", "ESTIMATORS", "Estimator", "main", "rows_of"]

BENCHMARK = "merged step, accuracy"
COLUMNS = ("step", "seeds", "test %", "difference from exact", "time x exact")
_RECALIBRATION_BATCHES = 20


@dataclass(frozen=True)
class Estimator:
    """An estimator of batch statistics.

    Attributes:
        step: Kind of step.
        sample: Sampled positions of each block. None: the default.
        exact_ends: Whether the first and the last epoch take exact steps.
        recalibrate: Whether to set the running statistics by exact passes over some batches after each epoch.
        branches: Preset. None: the recipe's.
    """

    step: Step = "merged"
    sample: int | None = None
    exact_ends: bool = False
    recalibrate: bool = False
    branches: str | None = None


ESTIMATORS: dict[str, Estimator] = {
    "exact": Estimator("exact"),
    "merged": Estimator(),
    "plain": Estimator("exact", branches="none"),
    "merged, 512 positions": Estimator(sample=512),
    "merged, 8192 positions": Estimator(sample=8192),
    "merged, exact first and last epoch": Estimator(exact_ends=True),
    "merged, recalibrated": Estimator(recalibrate=True),
}


class _Run(Training):
    estimator: Estimator

    def train_epoch(self, report: Callable[[str], None]) -> tuple[float, float]:
        chosen = self.estimator
        if self.has_blocks:
            ends = chosen.exact_ends and self.epoch in (0, self.settings.epochs - 1)
            set_step(self.net, "exact" if ends else chosen.step, sample=chosen.sample)
        found = super().train_epoch(report)
        if chosen.recalibrate:
            self._recalibrate()
        return found

    @torch.no_grad()
    def _recalibrate(self) -> None:
        norms = [module for module in self.net.modules() if isinstance(module, NORMS)]
        momenta = [norm.momentum for norm in norms]
        set_step(self.net.train(), "exact")
        for norm in norms:
            norm.reset_running_stats()
            # Use the plain mean over all batches.
            norm.momentum = None
        for (images, _), _ in zip(self.loader, range(_RECALIBRATION_BATCHES), strict=False):
            self.net(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.net.eval()


def main(record: str, folder: str, seeds: str = "5", recipe: str = "fashion_mnist", *overrides: str) -> None:
    """Run the trainings that are missing in the record, and print the results."""
    facts = {"recipe": recipe, "overrides": list(overrides)}
    for seed in range(int(seeds)):
        for name, estimator in ESTIMATORS.items():
            done = kept_lines(record, BENCHMARK, **facts)
            if not any(line["estimator"] == name and line["seed"] == seed for line in done):
                figures = _trained(estimator, seed, Path(folder) / f"{name}, seed {seed}", recipe, overrides)
                keep_line(record, BENCHMARK, estimator=name, seed=seed, **facts, **figures)
                _show(kept_lines(record, BENCHMARK, **facts))
    _show(kept_lines(record, BENCHMARK, **facts))


def _trained(
    estimator: Estimator, seed: int, out: Path, recipe: str, overrides: tuple[str, ...]
) -> dict[str, float | None]:
    branches = () if estimator.branches is None else (f"branches={estimator.branches}",)
    plan = load_recipe(recipe_path(recipe), [*overrides, f"seed={seed}", *branches])
    run = _Run(plan, out, None, resume=(out / "state.pt").exists(), overwrite=not (out / "state.pt").exists())
    run.estimator = estimator
    begin, epoch = time.process_time(), run.epoch
    result = run.run()
    done = result.epochs - epoch
    return {
        "test": result.test_accuracy,
        "val": result.val_accuracy,
        # CPU time, because the machine may be shared, of the epochs since the last start.
        "cpu_seconds_per_epoch": (time.process_time() - begin) / done if done else None,
    }


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row of `COLUMNS` for each estimator of a record: differences in points, with Student's 95 % interval."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        runs.setdefault(line["estimator"], {})[line["seed"]] = line
    order = [name for name in ESTIMATORS if name in runs]
    exact = runs.get("exact", {})
    rows = []
    for name in [*order, *(name for name in runs if name not in order)]:
        pairs = [(run, exact[seed]) for seed, run in runs[name].items() if seed in exact]
        differences = [100 * (run["test"] - other["test"]) for run, other in pairs]
        times = [
            run["cpu_seconds_per_epoch"] / other["cpu_seconds_per_epoch"]
            for run, other in pairs
            if run["cpu_seconds_per_epoch"] and other["cpu_seconds_per_epoch"]
        ]
        rows.append(
            [
                name,
                str(len(runs[name])),
                f"{statistics.mean(100 * run['test'] for run in runs[name].values()):.2f}",
                "-" if name == "exact" or not differences else _interval(differences),
                f"{statistics.median(times):.2f}" if times else "-",
            ]
        )
    return rows


def _show(lines: Sequence[Mapping[str, Any]]) -> None:
    table("Merged step", COLUMNS, rows_of(lines))


def _interval(values: list[float]) -> str:
    interval = student_interval(values)
    return f"{statistics.mean(values):+.2f}" + (
        "" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
