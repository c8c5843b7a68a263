"""Cells of a protocol: the trainings and measurements that its questions need, in the order in which they are run."""

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
# Arm that defines the space and budget of the timed candidates.
_TIMED = "drawn 2/3"
# Overrides that change where and how a cell is computed, such as data.root, but not its result.
Extras = Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A training or a measurement.

    A training is a trial of settings, a final run, or a retrained candidate; `place` is the index of the trial or the
    rank of the candidate. "scoring" scores the last population of the arm's search again; "timing" times the scoring of
    a population.
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
        """Name of the cell, which identifies everything but its settings."""
        place = f" {self.place}" if self.stage in ("trial", "candidate") else ""
        what = f"{self.arm.name}, {self.stage}{place}, seed {self.seed}"
        protocol = f"{self.protocol.name} v{self.protocol.version}"
        return f"{protocol}: {self.network.name}, {self.condition.label}, {what}"

    @property
    def folder(self) -> str:
        """Name of the cell's folder."""
        words = self.key.partition(": ")[2].replace(",", "").replace("/", "_").split()
        return "-".join(words)

    @property
    def trains(self) -> bool:
        """Whether the cell is a training."""
        return self.stage in ("trial", "final", "candidate")

    @property
    def searcher(self) -> Cell:
        """The cell whose search provides the Architectures of this one: itself, or that of the first seed."""
        return self if self.stage == "final" else replace(self, stage="final", seed=self.protocol.seeds[0], place=0)

    @property
    def trials(self) -> list[Cell]:
        """The trials in the main condition that determine the settings of this training; empty for a trial."""
        if self.stage == "trial" or not self.trains:
            return []
        protocol, arm = self.protocol, self.arm.tuning
        return [
            Cell(protocol, self.network, protocol.main, arm, "trial", TRIAL_SEED, place)
            for place in range(len(protocol.grid))
        ]


def cells_of(protocol: Protocol, questions: Sequence[str], networks: Sequence[Network]) -> list[Cell]:
    """Return the cells of `questions` without repetition: for each network the trials, then the cells that use them.

    The cells of `ADDED` come after all others.
    """
    for question in questions:
        if question not in QUESTIONS:
            text = f"unknown question {question!r}"
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
        for condition, name in protocol.finals(question):
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
    """Return the grid index of the best trial by the search-validation set; None if a trial is missing."""
    scores = [done[trial.key].result.val_accuracy for trial in cell.trials if trial.key in done]
    if not scores or len(scores) < len(cell.trials):
        return None
    # Among equal trials the first one wins, so that the order of the grid decides.
    return scores.index(max(scores))


def settings_of(cell: Cell, done: Mapping[str, ReproducedCell]) -> Settings | None:
    """Return the settings with which a cell is trained; None while some of its trials are missing."""
    place = cell.place if cell.stage == "trial" else chosen_trial(cell, done)
    return None if place is None else cell.protocol.grid[place]


def recipe_of_cell(cell: Cell, settings: Settings | None, extras: Extras = ()) -> Recipe:
    """Return the recipe of a cell's training and of its search; `settings` affect the training only."""
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
