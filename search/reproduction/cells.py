"""Cells of a protocol: what its questions need, most of it trainings, in the order in which it is made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from irepdeploy.errors import InputError
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.runs.reproduction import ReproducedCell

from ..execution.shipped import recipe_path
from .protocol import ADDED, ARMS, QUESTIONS, RANKED, SPACE, TRIAL_SEED, Arm, Condition, Network, Protocol, Settings

__all__ = ["Cell", "Extras", "cells_of", "chosen_trial", "recipe_of_cell", "settings_of"]

Stage = Literal["trial", "final", "candidate", "scoring", "timing"]
# The arm whose space and budget the timed candidates have.
_TIMED = "drawn 2/3"
# Overrides that change where a cell is computed and how, but not what: such as data.root.
Extras = Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A training or a measurement.

    Trainings are a trial of settings, a final run, or a candidate retrained; `place` counts trials, or ranks. "scoring"
    scores the last population of the arm's search again, "timing" times the scoring of a population.
    """

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
        place = f" {self.place}" if self.stage in ("trial", "candidate") else ""
        what = f"{self.arm.name}, {self.stage}{place}, seed {self.seed}"
        protocol = f"{self.protocol.name} v{self.protocol.version}"
        return f"{protocol}: {self.network.name}, {self.condition.label}, {what}"

    @property
    def folder(self) -> str:
        """The name of the cell's folder."""
        words = self.key.partition(": ")[2].replace(",", "").replace("/", "_").split()
        return "-".join(words)

    @property
    def trains(self) -> bool:
        """Whether the cell is a training."""
        return self.stage in ("trial", "final", "candidate")

    @property
    def searcher(self) -> Cell:
        """The cell whose search gives this one its Architectures: its own, or the first of all seeds."""
        return self if self.stage == "final" else replace(self, stage="final", seed=self.protocol.seeds[0], place=0)

    @property
    def trials(self) -> list[Cell]:
        """The trials that decide the settings of this training, in the main condition; a trial needs none."""
        if self.stage == "trial" or not self.trains:
            return []
        protocol, arm = self.protocol, self.arm.tuning
        return [
            Cell(protocol, self.network, protocol.main, arm, "trial", TRIAL_SEED, place)
            for place in range(len(protocol.grid))
        ]


def cells_of(protocol: Protocol, questions: Sequence[str], networks: Sequence[Network]) -> list[Cell]:
    """Return the cells of some questions without repetition: for each network trials first, then what they decide.

    Those of `ADDED` come after all others.
    """
    for question in questions:
        if question not in QUESTIONS:
            text = f"no question {question!r}"
            raise InputError(text, where="--table", hint=f"one of {', '.join(QUESTIONS)}")
    found: dict[str, Cell] = {}
    asked = [question for question in questions if question in protocol.questions]
    for added, network in itertools.product((False, True), networks):
        late = [cell for question in asked for cell in _late(protocol, network, question, added=added)]
        for cell in [*(trial for each in late for trial in each.trials), *late]:
            found.setdefault(cell.key, cell)
    if not found:
        raise InputError(f"{protocol.name} has no such cells", where="--table", hint="--table 2")
    return list(found.values())


def _late(protocol: Protocol, network: Network, question: str, *, added: bool) -> Iterator[Cell]:
    main, first = protocol.main, protocol.seeds[0]
    if (question in ADDED) == added:
        for condition in protocol.axes if question == "axes" else (main,):
            for name in QUESTIONS[question]:
                for seed in protocol.seeds:
                    yield Cell(protocol, network, condition, ARMS[name], "final", seed)
    if question == "search" and not added:
        for place in range(protocol.candidates):
            for seed in protocol.candidate_seeds:
                yield Cell(protocol, network, main, ARMS[RANKED], "candidate", seed, place)
    if question == "search" and added:
        yield Cell(protocol, network, main, ARMS[RANKED], "scoring", first)
    if question == "1" and added:
        yield Cell(protocol, network, main, ARMS[_TIMED], "timing", first)


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
        *arm.overrides(cell.condition.epochs),
        f"branches={branches}",
        f"seed={cell.seed}",
        *([] if arm.budget is None else [f"search.budget={arm.budget}"]),
        *([] if arm.strategy is None else [f"search.strategy={arm.strategy}"]),
        *extras,
    ]
    return load_recipe(recipe_path(cell.network.recipe), overrides)
