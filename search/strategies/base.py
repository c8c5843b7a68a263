"""The contract of a strategy, and what all strategies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from irepdeploy.errors import RecipeError
from irepdeploy.recipe import SearchSection

from ..importance import Importance
from ..space import Bits, SearchSpace

__all__ = ["Strategy"]

# How often a duplicate is drawn again before the place is filled at random.
_REDRAWS = 100


class Strategy:
    """Proposes populations of different candidates with at most C branches each.

    Raises:
        RecipeError: the budget keeps nothing, or the space holds fewer candidates than the population wants.
    """

    def __init__(self, space: SearchSpace, settings: SearchSection) -> None:
        self.space = space
        self.settings = settings
        self.budget = space.budget(settings.share)
        available = space.candidates(self.budget)
        if available < settings.population:
            raise RecipeError(
                f"a population of {settings.population} is impossible: budget {settings.budget} allows {available}"
                " different Architectures",
                where="search.population",
                hint=f"at most {available}",
            )

    def first(self, random: np.random.Generator) -> list[Bits]:
        """The first population: uniform over all candidates under the budget."""
        return self._fill([], self.settings.population, lambda: self.uniform(random), random)

    def next(
        self, population: Sequence[Bits], ranking: Sequence[int], importance: Importance, random: np.random.Generator
    ) -> list[Bits]:
        """The next population.

        Args:
            population: the scored candidates.
            ranking: their indices, best first.
            importance: what the supernet has learned.
        """
        raise NotImplementedError

    def uniform(self, random: np.random.Generator) -> Bits:
        """One candidate, every subset of at most C branches equally likely."""
        sizes = [math.comb(self.space.size, kept) for kept in range(self.budget + 1)]
        # The counts outgrow 64 bits, so the number is drawn from Python's integers.
        total = sum(sizes)
        draw = int.from_bytes(random.bytes(max(64, total.bit_length() // 8 + 16)), "little") % total
        kept = 0
        while draw >= sizes[kept]:
            draw -= sizes[kept]
            kept += 1
        bits = np.zeros(self.space.size, dtype=bool)
        bits[random.choice(self.space.size, size=kept, replace=False)] = True
        return bits

    def _fill(
        self, population: list[Bits], size: int, draw: Callable[[], Bits], random: np.random.Generator
    ) -> list[Bits]:
        """Add drawn candidates until `size` different ones are there; a lasting duplicate gives way to chance."""
        seen = {bits.tobytes() for bits in population}
        while len(population) < size:
            for attempt in range(_REDRAWS + 1):
                bits = draw() if attempt < _REDRAWS else self.uniform(random)
                if bits.tobytes() not in seen:
                    break
            else:
                continue
            seen.add(bits.tobytes())
            population.append(bits)
        return population
