"""Random search: the baseline that every search must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..supernet.space import Bits
from .base import Strategy
from .importance import Importance

__all__ = ["Uniform"]


class Uniform(Strategy):
    """Keeps the best candidate so far and redraws all others, ignoring fitness and importance."""

    def next(
        self, population: Sequence[Bits], ranking: Sequence[int], importance: Importance, random: np.random.Generator
    ) -> list[Bits]:
        """Keep the best candidate and draw the others uniformly."""
        best = [population[ranking[0]]]
        return self._fill(best, self.settings.population, lambda: self.budget.uniform(random), random)
