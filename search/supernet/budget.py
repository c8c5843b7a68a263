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
        """C of Eq. 5: how many branches a candidate may keep in all."""
        return sum(group.capacity for group in self.groups)

    @property
    def candidates(self) -> int:
        """How many different candidates keep the budget."""
        return math.prod(sum(_sizes(group)) for group in self.groups)

    def allows(self, bits: Bits) -> bool:
        """Whether a candidate keeps it."""
        return all(int(bits[list(group.positions)].sum()) <= group.capacity for group in self.groups)

    def uniform(self, random: np.random.Generator) -> Bits:
        """One candidate, each that keeps the budget equally likely."""
        bits = np.zeros(sum(len(group.positions) for group in self.groups), dtype=bool)
        # Groups bind nothing between them: uniform in each is uniform over all.
        for group in self.groups:
            sizes = _sizes(group)
            # The counts outgrow 64 bits, so the number is drawn from Python's integers.
            total = sum(sizes)
            draw = int.from_bytes(random.bytes(max(64, total.bit_length() // 8 + 16)), "little") % total
            kept = 0
            while draw >= sizes[kept]:
                draw -= sizes[kept]
                kept += 1
            bits[random.choice(group.positions, size=kept, replace=False)] = True
        return bits

    def cut(self, bits: Bits, score: np.ndarray[Any, Any], random: np.random.Generator) -> Bits:
        """`bits` without those of the lowest score in each group that holds too many; chance breaks ties."""
        kept = bits.copy()
        for group in self.groups:
            chosen = np.array(group.positions)[bits[list(group.positions)]]
            excess = len(chosen) - group.capacity
            if excess > 0:
                order = np.lexsort((random.random(len(chosen)), score[chosen]))
                kept[chosen[order[:excess]]] = False
        return kept


def _sizes(group: Group) -> list[int]:
    """How many choices keep 0, 1, ... branches of a group."""
    return [math.comb(len(group.positions), kept) for kept in range(group.capacity + 1)]
