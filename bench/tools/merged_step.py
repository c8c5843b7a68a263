"""Decide about the merged step: test accuracy and time of trainings with it and without, paired by seed.

``python -m irepdeploy.bench.tools.merged_step RECORD FOLDER [SEEDS [RECIPE [KEY=VALUE ...]]]`` trains the network of a
recipe (default: ``fashion_mnist``) under every estimator of `ESTIMATORS` and every seed below SEEDS (default: 5), and
appends a line to RECORD for each. It goes on where it was stopped, in the middle of a training too. Then it prints the
means over seeds, and the differences from the exact step.

The rule: an estimator is kept if its mean test accuracy lies within 0.1 points of the exact step's, at no more than 0.6
of its time.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from irepdeploy.console import table
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.block import Step
from irepdeploy.reparam.normalisation import NORMS
from irepdeploy.reparam.step import set_step
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.training.training import Training

from .harness import keep_line, kept_lines

__all__ = ["ESTIMATORS", "Estimator", "main"]

_BENCHMARK = "merged step, accuracy"
# Of Student's t, 95 % on both sides, by degrees of freedom.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
_RECALIBRATION_BATCHES = 20


@dataclass(frozen=True)
class Estimator:
    """How batch statistics are estimated.

    Attributes:
        step: Step of the epochs.
        sample: Positions of each block; None: the default.
        exact_ends: The first and the last epoch take exact steps.
        recalibrate: Set the running statistics by exact passes over some batches after each epoch.
        branches: Preset, or None for the recipe's.
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
            # The plain mean over all batches.
            norm.momentum = None
        for (images, _), _ in zip(self.loader, range(_RECALIBRATION_BATCHES), strict=False):
            self.net(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.net.eval()


def main(record: str, folder: str, seeds: str = "5", recipe: str = "fashion_mnist", *overrides: str) -> None:
    """Train what is missing in the record, and print what is there."""
    facts = {"recipe": recipe, "overrides": list(overrides)}
    for seed in range(int(seeds)):
        for name, estimator in ESTIMATORS.items():
            done = kept_lines(record, _BENCHMARK, **facts)
            if not any(line["estimator"] == name and line["seed"] == seed for line in done):
                figures = _trained(estimator, seed, Path(folder) / f"{name}, seed {seed}", recipe, overrides)
                keep_line(record, _BENCHMARK, estimator=name, seed=seed, **facts, **figures)
                _show(kept_lines(record, _BENCHMARK, **facts))
    _show(kept_lines(record, _BENCHMARK, **facts))


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
        # Of the process, because the machine may be shared; of the epochs since the last start.
        "cpu_seconds_per_epoch": (time.process_time() - begin) / done if done else None,
    }


def _show(lines: list[dict[str, Any]]) -> None:
    by_name = {name: {line["seed"]: line for line in lines if line["estimator"] == name} for name in ESTIMATORS}
    exact, rows = by_name["exact"], []
    for name, runs in by_name.items():
        if not runs:
            continue
        paired = [100 * (runs[seed]["test"] - exact[seed]["test"]) for seed in runs if seed in exact]
        times = [
            runs[seed]["cpu_seconds_per_epoch"] / exact[seed]["cpu_seconds_per_epoch"]
            for seed in runs
            if seed in exact and runs[seed]["cpu_seconds_per_epoch"] and exact[seed]["cpu_seconds_per_epoch"]
        ]
        rows.append(
            [
                name,
                str(len(runs)),
                f"{statistics.mean(100 * run['test'] for run in runs.values()):.2f}",
                "-" if name == "exact" or not paired else _interval(paired),
                f"{statistics.median(times):.2f}" if times else "-",
            ]
        )
    table("Merged step", ["estimator", "seeds", "test %", "difference from exact", "time x exact"], rows)


def _interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    half = _T.get(len(values) - 1, 2.2) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


if __name__ == "__main__":
    main(*sys.argv[1:])
