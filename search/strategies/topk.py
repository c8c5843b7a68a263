"""Selection by gradient alone, without noise, parents or fitness: the alternative that Section 3.3 argues against."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ..supernet.space import Bits
from .base import Strategy
from .importance import Importance

__all__ = ["TopK"]


class TopK(Strategy):
    """The candidates within the budget with the highest sums of beta' * alpha', best first.

    The first candidate is Eq. 10 without noise. The paper does not define the rest of the population. The next best
    sums differ from the first where the score is least certain, use as many evaluations as the other strategies, and
    leave the fitness of the last evolution a choice.
    """

    def next(
        self, population: Sequence[Bits], ranking: Sequence[int], importance: Importance, random: np.random.Generator
    ) -> list[Bits]:
        """Take the candidates with the highest sums of scores."""
        return list(itertools.islice(self.by_score(importance, random), self.settings.population))

    def by_score(self, importance: Importance, random: np.random.Generator) -> Iterator[Bits]:
        """Yield all candidates within the budget by descending sum of scores; ties are broken at random.

        In each group of the budget the branches are ranked. Moving one kept branch down by one rank, or dropping the
        last one, never raises the sum, and every candidate can be reached from the best by such moves. A heap therefore
        yields them in order.
        """
        orders = [
            np.array(group.positions)[np.lexsort((random.random(len(group.positions)), -score))]
            for group in self.budget.groups
            for score in [importance.score[list(group.positions)]]
        ]
        best = np.zeros(self.space.size, dtype=bool)
        for order, group in zip(orders, self.budget.groups, strict=True):
            best[order[: group.capacity]] = True
        seen = {best.tobytes()}
        # Heap items begin with the gap to the best sum; the count breaks ties, since arrays cannot be compared.
        count = itertools.count()
        heap = [(0.0, next(count), best)]
        while heap:
            loss, _, bits = heapq.heappop(heap)
            yield bits
            for order in orders:
                kept = bits[order]
                for rank in np.flatnonzero(kept & ~np.append(kept[1:], False)):
                    moved = bits.copy()
                    moved[order[rank]] = False
                    change = importance.score[order[rank]]
                    if rank + 1 < len(order):
                        moved[order[rank + 1]] = True
                        change = change - importance.score[order[rank + 1]]
                    if moved.tobytes() not in seen:
                        seen.add(moved.tobytes())
                        heapq.heappush(heap, (loss + change, next(count), moved))
