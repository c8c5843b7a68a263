"""The directional evolutionary strategy (Sections 3.3 and 3.4, Algorithm 1)."""

from __future__ import annotations

import numpy as np

from ..supernet.space import Bits
from .evolution import Evolution
from .importance import Importance

__all__ = ["Directional"]


class Directional(Evolution):
    """Evolution whose newcomers and repairs follow what the supernet has learned."""

    def repair(self, bits: Bits, importance: Importance, random: np.random.Generator) -> Bits:
        """Drop the branches of lowest score until the budget is met; ties are broken at random."""
        return self.budget.cut(bits, importance.score, random)

    def newcomer(self, importance: Importance, random: np.random.Generator) -> Bits:
        """Return a candidate by Eq. 10: the branches with the highest perturbed scores, as many as the budget allows.

        Until alpha changes, all scores tie. Ties are broken at random; breaking them by position would keep all
        branches of the first layers.
        """
        score = importance.perturbed_score(random, clamp=self.settings.clamp)
        return self.budget.cut(np.ones(self.space.size, dtype=bool), score, random)
