"""The branch budget of Eq. 5: groups of positions, each with a capacity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Bits", "Budget", "Group"]

Bits = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Group:
    """Positions of a search space; at most `capacity` of them may be kept."""

    positions: tuple[int, ...]
    capacity: int


@dataclass(frozen=True)
class Budget:
    """Limits of a candidate. Every position is in one group: the whole space for a share, a block for "4/block"."""

    groups: tuple[Group, ...]

    @property
    def total(self) -> int:
        """C of Eq. 5: the number of branches that a candidate may keep."""
        return sum(group.capacity for group in self.groups)

    @property
    def candidates(self) -> int:
        """Number of distinct candidates within the budget."""
        return math.prod(sum(_sizes(group)) for group in self.groups)

    def allows(self, bits: Bits) -> bool:
        """Return whether a candidate is within the budget."""
        return all(int(bits[list(group.positions)].sum()) <= group.capacity for group in self.groups)

    def uniform(self, random: np.random.Generator) -> Bits:
        """Draw a candidate, uniform over all candidates within the budget."""
        bits = np.zeros(sum(len(group.positions) for group in self.groups), dtype=bool)
        # Groups are independent: uniform in each is uniform over all.
        for group in self.groups:
            sizes = _sizes(group)
            # The counts exceed 64 bits, so the number is drawn as a Python integer.
            total = sum(sizes)
            draw = int.from_bytes(random.bytes(max(64, total.bit_length() // 8 + 16)), "little") % total
            kept = 0
            while draw >= sizes[kept]:
                draw -= sizes[kept]
                kept += 1
            bits[random.choice(group.positions, size=kept, replace=False)] = True
        return bits

    def cut(self, bits: Bits, score: np.ndarray[Any, Any], random: np.random.Generator) -> Bits:
        """Return `bits` without the lowest-scored branches of groups above their capacity; ties break at random."""
        kept = bits.copy()
        for group in self.groups:
            chosen = np.array(group.positions)[bits[list(group.positions)]]
            excess = len(chosen) - group.capacity
            if excess > 0:
                order = np.lexsort((random.random(len(chosen)), score[chosen]))
                kept[chosen[order[:excess]]] = False
        return kept


def _sizes(group: Group) -> list[int]:
    """Return the number of ways to keep 0, 1, ... branches of a group."""
    return [math.comb(len(group.positions), kept) for kept in range(group.capacity + 1)]
