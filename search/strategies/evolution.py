"""Undirected evolution: a baseline for the directional strategy, and what the two share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..supernet.space import Bits
from .base import Strategy
from .importance import Importance

__all__ = ["Evolution"]


class Evolution(Strategy):
    """Parents, their crossed and mutated offspring, and newcomers; chance alone draws and repairs.

    The directional strategy differs in `repair` and `newcomer` and in nothing else.
    """

    def next(
        self, population: Sequence[Bits], ranking: Sequence[int], importance: Importance, random: np.random.Generator
    ) -> list[Bits]:
        """Keep the parents, then add their offspring and newcomers."""
        settings = self.settings
        size = settings.population
        parents = [population[index] for index in ranking[: max(1, round(settings.parents * size))]]
        bred = min(size, len(parents) + round(settings.offspring * size))
        made = self._fill(list(parents), bred, lambda: self.offspring(parents, importance, random), random)
        return self._fill(made, size, lambda: self.newcomer(importance, random), random)

    def offspring(self, parents: Sequence[Bits], importance: Importance, random: np.random.Generator) -> Bits:
        """One candidate from one or two parents.

        Crossover takes each layer from one of two parents; mutation flips each bit with the recipe's rate. Both happen
        with their own probability. Above the budget branches are dropped by `repair`.
        """
        settings = self.settings
        first = parents[int(random.integers(len(parents)))]
        bits = first.copy()
        if random.random() < settings.crossover and len(parents) > 1:
            second = parents[int(random.integers(len(parents)))]
            from_second = random.random(len(self.space.layers)) < 0.5
            bits = np.where(from_second[self.space.layer], second, first)
        if random.random() < settings.mutation:
            bits = bits ^ (random.random(self.space.size) < settings.mutation_rate)
        return self.repair(bits, importance, random)

    def repair(self, bits: Bits, importance: Importance, random: np.random.Generator) -> Bits:
        """Drop branches until the budget holds; which ones, chance decides."""
        return self.budget.cut(bits, np.zeros(self.space.size), random)

    def newcomer(self, importance: Importance, random: np.random.Generator) -> Bits:
        """One candidate without parents, each that keeps the budget equally likely."""
        return self.budget.uniform(random)
