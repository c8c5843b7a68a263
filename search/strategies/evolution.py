"""Undirected evolution, a baseline for the directional strategy and its base class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..supernet.space import Bits
from .base import Strategy
from .importance import Importance

__all__ = ["Evolution"]


class Evolution(Strategy):
    """Evolution by parents, their crossed and mutated offspring, and random newcomers, with random repair.

    The directional strategy differs only in `repair` and `newcomer`.
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
        """Return a candidate made from one or two parents.

        Crossover takes each layer from one of two parents; mutation flips each bit with the recipe's rate. Each
        happens with its own probability. `repair` drops branches beyond the budget.
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
        """Drop random branches until the budget is met."""
        return self.budget.cut(bits, np.zeros(self.space.size), random)

    def newcomer(self, importance: Importance, random: np.random.Generator) -> Bits:
        """Draw a candidate without parents, uniform over all candidates within the budget."""
        return self.budget.uniform(random)
