"""Presets held against each other: the same network, recipe and seeds, each training in a folder of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.files import output_folder, write_json
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.presets import PRESETS

from ..execution.device import ranks_of
from ..execution.ranks import Ranks
from ..execution.spread import Spread
from .training import Training, TrainingResult

__all__ = ["PLAIN", "ComparedTraining", "TrainingComparison", "compare_presets"]

Advance = Callable[[int, str], None]

PLAIN = "plain"

_NOTES = (
    "Every accuracy is of the fused network of the best epoch by the search-validation set; the test set was read once"
    " in each training, at its end.",
    "The spread is the standard deviation over seeds; differences are taken seed by seed. One less than about twice its"
    " spread over the root of the number of seeds is noise.",
)


@dataclass(frozen=True)
class ComparedTraining:
    """One training of a comparison."""

    preset: str
    seed: int
    result: TrainingResult


@dataclass(frozen=True)
class TrainingComparison:
    """All trainings, preset by preset in the order that was asked for; differences are from the first."""

    network: str
    dataset: str
    presets: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[ComparedTraining, ...]

    columns = ("preset", "branches", "test %", "difference", "validation %", "seconds an epoch")

    def of(self, preset: str) -> list[TrainingResult]:
        """The results of a preset by seed."""
        return [run.result for run in self.runs if run.preset == preset]

    @property
    def rows(self) -> list[list[str]]:
        """A line a preset: mean and standard deviation over seeds."""
        first = self.of(self.presets[0])
        rows = []
        for preset in self.presets:
            found = self.of(preset)
            gains = [one.test_accuracy - base.test_accuracy for one, base in zip(found, first, strict=True)]
            rows.append(
                [
                    preset,
                    str(found[0].branches),
                    Spread.of([100 * each.test_accuracy for each in found]).text,
                    "-" if preset == self.presets[0] else Spread.of([100 * gain for gain in gains]).signed,
                    Spread.of([100 * each.val_accuracy for each in found]).text,
                    f"{Spread.of([each.seconds_per_epoch for each in found]).mean:.2f}",
                ]
            )
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures are and are not."""
        return _NOTES

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of compare.json."""
        runs = [{"preset": run.preset, "seed": run.seed, **asdict(run.result)} for run in self.runs]
        return {
            "network": self.network,
            "dataset": self.dataset,
            "presets": list(self.presets),
            "seeds": list(self.seeds),
            "runs": runs,
            "notes": list(_NOTES),
        }


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
    """Train the recipe's network with each preset and each of the seeds that follow the recipe's.

    Args:
        presets: "plain", or names of presets.
        seeds: how many.
        out: gets a folder ``PRESET-SEED`` for each training, and compare.json.
        advance: called with the number of epochs done since the last call, and a short text.

    Raises:
        InputError: an unknown preset, the same one twice, or no seed.
        RunError: a training failed; what was done is kept for `resume`.
    """
    _check(presets, seeds)
    ranks = ranks_of(recipe) if ranks is None else ranks
    folder = output_folder(out)
    numbers = range(recipe.seed, recipe.seed + seeds)
    runs = []
    for preset in presets:
        for seed in numbers:
            branches = "none" if preset == PLAIN else preset
            plan = recipe.model_copy(update={"branches": branches, "seed": seed})
            training = Training(
                plan, folder / f"{preset}-{seed}", None, resume=resume, overwrite=overwrite, ranks=ranks
            )
            label = f"{preset}, seed {seed}"
            result = training.run(functools.partial(_labelled, advance, label))
            runs.append(ComparedTraining(preset, seed, result))
    found = TrainingComparison(recipe.net.name, recipe.data.name, tuple(presets), tuple(numbers), tuple(runs))
    if ranks.first:
        write_json(folder / "compare.json", found.to_dict())
    return found


def _labelled(advance: Advance, label: str, epochs: int, note: str) -> None:
    advance(epochs, f"{label}  {note}")


def _check(presets: Sequence[str], seeds: int) -> None:
    known = (PLAIN, *PRESETS)
    for preset in presets:
        if preset not in known:
            raise InputError(f"no preset {preset!r}", where="--presets", hint=f"one of {', '.join(known)}")
    if not presets:
        raise InputError("no preset is named", where="--presets", hint=f"some of {', '.join(known)}")
    if len(set(presets)) < len(presets):
        raise InputError("name each preset once", where="--presets", hint="--presets plain,acnet,ireps")
    if seeds < 1:
        raise InputError(f"{seeds} seeds are none", where="--seeds")
