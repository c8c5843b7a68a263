"""Base class of all strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from irepdeploy.errors import RecipeError

from ..supernet.space import Bits, SearchSpace
from .importance import Importance

if TYPE_CHECKING:
    from irepdeploy.recipe import SearchSection

__all__ = ["Strategy"]

# How often a duplicate is redrawn before its place is filled at random.
_REDRAWS = 100


class Strategy:
    """Proposes populations of distinct candidates within the budget.

    Raises:
        RecipeError: The budget keeps no branch, or the space has fewer candidates than the population.
    """

    def __init__(self, space: SearchSpace, settings: SearchSection) -> None:
        self.space = space
        self.settings = settings
        self.budget = space.budget(settings.budget)
        available = self.budget.candidates
        if available < settings.population:
            raise RecipeError(
                f"a population of {settings.population} is impossible: budget {settings.budget} allows {available}"
                " different Architectures",
                where="search.population",
                hint=f"at most {available}",
            )

    def first(self, random: np.random.Generator) -> list[Bits]:
        """Draw the first population, uniform over all candidates within the budget."""
        return self._fill([], self.settings.population, lambda: self.budget.uniform(random), random)

    def next(
        self, population: Sequence[Bits], ranking: Sequence[int], importance: Importance, random: np.random.Generator
    ) -> list[Bits]:
        """Make the next population.

        Args:
            population: The scored candidates.
            ranking: Their indices, best first.
            importance: What the supernet has learned.
            random: Source of all randomness.
        """
        raise NotImplementedError

    def _fill(
        self, population: list[Bits], size: int, draw: Callable[[], Bits], random: np.random.Generator
    ) -> list[Bits]:
        """Add draws until there are `size` distinct candidates; persistent duplicates are replaced at random."""
        seen = {bits.tobytes() for bits in population}
        while len(population) < size:
            for attempt in range(_REDRAWS + 1):
                bits = draw() if attempt < _REDRAWS else self.budget.uniform(random)
                if bits.tobytes() not in seen:
                    break
            else:
                continue
            seen.add(bits.tobytes())
            population.append(bits)
        return population
