"""The directional evolutionary strategy (Sections 3.3 and 3.4, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..importance import Importance
from ..space import Bits
from .base import Strategy

__all__ = ["Directional"]


class Directional(Strategy):
    """Parents, their crossed and mutated offspring, and candidates sampled from what the supernet has learned."""

    def next(
        self, population: Sequence[Bits], ranking: Sequence[int], importance: Importance, random: np.random.Generator
    ) -> list[Bits]:
        settings = self.settings
        size = settings.population
        parents = [population[index] for index in ranking[: max(1, round(settings.parents * size))]]
        bred = min(size, len(parents) + round(settings.offspring * size))
        made = self._fill(list(parents), bred, lambda: self.offspring(parents, importance, random), random)
        return self._fill(made, size, lambda: self.sample(importance, random), random)

    def offspring(self, parents: Sequence[Bits], importance: Importance, random: np.random.Generator) -> Bits:
        """One candidate from one or two parents.

        Crossover takes each layer from one of two parents; mutation flips each bit with the recipe's rate. Both happen
        with their own probability. Above the budget the branches of lowest score are dropped.
        """
        settings = self.settings
        first = parents[int(random.integers(len(parents)))]
        bits = first.copy()
        if random.random() < settings.crossover and len(parents) > 1:
            second = parents[int(random.integers(len(parents)))]
            from_second = random.random(len(self.space.layers)) < 0.5
            bits = np.where(from_second[importance.layer], second, first)
        if random.random() < settings.mutation:
            bits = bits ^ (random.random(self.space.size) < settings.mutation_rate)
        return self.repair(bits, importance, random)

    def repair(self, bits: Bits, importance: Importance, random: np.random.Generator) -> Bits:
        """Drop the branches of lowest score until the budget holds; chance breaks ties, as in `sample`."""
        excess = int(bits.sum()) - self.budget
        if excess <= 0:
            return bits
        kept = np.flatnonzero(bits)
        repaired = bits.copy()
        order = np.lexsort((random.random(len(kept)), importance.score[kept]))
        repaired[kept[order[:excess]]] = False
        return repaired

    def sample(self, importance: Importance, random: np.random.Generator) -> Bits:
        """One candidate by Eq. 10: the C branches of the highest perturbed score over all layers."""
        score = importance.perturbed_score(random, clamp=self.settings.clamp)
        # Before alpha has moved all scores tie; by position the first layers would stay whole, so chance breaks ties.
        order = np.lexsort((random.random(self.space.size), -score))
        bits = np.zeros(self.space.size, dtype=bool)
        bits[order[: self.budget]] = True
        return bits
