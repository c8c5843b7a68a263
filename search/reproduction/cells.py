"""Cells of a protocol: the trainings that its questions need, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from irepdeploy.errors import InputError
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.runs.reproduction import ReproducedCell

from ..execution.shipped import recipe_path
from .protocol import ARMS, QUESTIONS, RANKED, SPACE, TRIAL_SEED, Arm, Condition, Network, Protocol, Settings

__all__ = ["Cell", "Extras", "cells_of", "chosen_trial", "recipe_of_cell", "settings_of"]

Stage = Literal["trial", "final", "candidate"]
# Overrides that change where a cell is computed and how, but not what: such as data.root.
Extras = Sequence[str]


@dataclass(frozen=True)
class Cell:
    """One training: a trial of settings, a final run, or a candidate retrained; `place` counts trials, or ranks."""

    protocol: Protocol
    network: Network
    condition: Condition
    arm: Arm
    stage: Stage
    seed: int
    place: int = 0

    @property
    def key(self) -> str:
        """The name of the cell: what it is, apart from its settings."""
        place = "" if self.stage == "final" else f" {self.place}"
        what = f"{self.arm.name}, {self.stage}{place}, seed {self.seed}"
        protocol = f"{self.protocol.name} v{self.protocol.version}"
        return f"{protocol}: {self.network.name}, {self.condition.label}, {what}"

    @property
    def folder(self) -> str:
        """The name of the cell's folder."""
        words = self.key.partition(": ")[2].replace(",", "").replace("/", "_").split()
        return "-".join(words)

    @property
    def trials(self) -> list[Cell]:
        """The trials that decide the settings of this cell, in the main condition; a trial needs none."""
        if self.stage == "trial":
            return []
        protocol, arm = self.protocol, self.arm.tuning
        return [
            Cell(protocol, self.network, protocol.main, arm, "trial", TRIAL_SEED, place)
            for place in range(len(protocol.grid))
        ]


def cells_of(protocol: Protocol, questions: Sequence[str], networks: Sequence[Network]) -> list[Cell]:
    """Return the cells of some questions without repetition: for each network trials first, then what they decide."""
    for question in questions:
        if question not in QUESTIONS:
            text = f"no question {question!r}"
            raise InputError(text, where="--table", hint=f"one of {', '.join(QUESTIONS)}")
    found: dict[str, Cell] = {}
    for network in networks:
        late = [cell for question in questions for cell in _late(protocol, network, question)]
        for cell in [*(trial for each in late for trial in each.trials), *late]:
            found.setdefault(cell.key, cell)
    if not found:
        raise InputError(f"{protocol.name} has no such cells", where="--table", hint="--table 2")
    return list(found.values())


def _late(protocol: Protocol, network: Network, question: str) -> Iterator[Cell]:
    for condition in protocol.axes if question == "axes" else (protocol.main,):
        for name in QUESTIONS[question]:
            for seed in protocol.seeds:
                yield Cell(protocol, network, condition, ARMS[name], "final", seed)
    if question == "search":
        for place in range(protocol.candidates):
            for seed in protocol.candidate_seeds:
                yield Cell(protocol, network, protocol.main, ARMS[RANKED], "candidate", seed, place)


def chosen_trial(cell: Cell, done: Mapping[str, ReproducedCell]) -> int | None:
    """Return the place in the grid of the best trial by the search-validation set; None if a trial is missing."""
    scores = [done[trial.key].result.val_accuracy for trial in cell.trials if trial.key in done]
    if not scores or len(scores) < len(cell.trials):
        return None
    # Of equals the first, so that the order of the grid decides.
    return scores.index(max(scores))


def settings_of(cell: Cell, done: Mapping[str, ReproducedCell]) -> Settings | None:
    """Return the settings under which a cell is trained; None while the trials that decide them are missing."""
    place = cell.place if cell.stage == "trial" else chosen_trial(cell, done)
    return None if place is None else cell.protocol.grid[place]


def recipe_of_cell(cell: Cell, settings: Settings | None, extras: Extras = ()) -> Recipe:
    """Return the recipe of a cell's training and of its search, which `settings` do not concern."""
    branches = cell.network.space if cell.arm.branches == SPACE else cell.arm.branches
    arm = cell.arm
    overrides = [
        *cell.network.overrides,
        *cell.condition.overrides,
        *([] if settings is None else settings.overrides),
        f"branches={branches}",
        f"seed={cell.seed}",
        *([] if arm.budget is None else [f"search.budget={arm.budget}"]),
        *([] if arm.strategy is None else [f"search.strategy={arm.strategy}"]),
        *extras,
    ]
    return load_recipe(recipe_path(cell.network.recipe), overrides)
