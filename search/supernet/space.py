"""The search space of one network: which branches are possible where, and how many may be kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from torch import nn

from irepdeploy.errors import RecipeError
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock

from .budget import Bits, Budget, Group

__all__ = ["Bits", "SearchSpace"]


@dataclass(frozen=True)
class SearchSpace:
    """The possible branches as a sequence of positions (layer index, branch index), layer by layer.

    A candidate is a bit vector over these positions, so branches that a layer cannot have are neither counted nor
    activated.
    """

    layers: tuple[str, ...]
    branches: tuple[str, ...]
    positions: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, supernet: nn.Module, branches: Sequence[str]) -> SearchSpace:
        """Return the space spanned by the RepBlocks of `supernet`, which has all possible branches."""
        blocks = {name: module for name, module in supernet.named_modules() if isinstance(module, RepBlock)}
        positions = tuple(
            (row, column)
            for row, block in enumerate(blocks.values())
            for column, branch in enumerate(branches)
            if branch in block.branches
        )
        return cls(tuple(blocks), tuple(branches), positions)

    @property
    def size(self) -> int:
        """Number of possible branches."""
        return len(self.positions)

    @property
    def layer(self) -> np.ndarray[Any, Any]:
        """The layer index of each position."""
        return np.array([row for row, _ in self.positions], dtype=int)

    def budget(self, text: str) -> Budget:
        """Return C of Eq. 5: floor(share x possible branches), or four per block for "4/block" (Section 4.4)."""
        if not self.size:
            raise RecipeError("no branch to search", where="branches", hint="branches=ireps has nine")
        number, per_block, _ = text.partition("/block")
        if per_block:
            blocks = [
                tuple(index for index, (row, _) in enumerate(self.positions) if row == layer)
                for layer in range(len(self.layers))
            ]
            return Budget(tuple(Group(block, min(int(number), len(block))) for block in blocks if block))
        count = math.floor(Fraction(text) * self.size)
        if count < 1:
            raise RecipeError(
                f"a budget of {text} keeps none of the {self.size} possible branches",
                where="search.budget",
                hint=f"at least 1/{self.size}",
            )
        return Budget((Group(tuple(range(self.size)), count),))

    def blocks(self, supernet: nn.Module) -> list[RepBlock]:
        """Return the RepBlocks of `supernet`, one per layer."""
        blocks = [supernet.get_submodule(name) for name in self.layers]
        return [block for block in blocks if isinstance(block, RepBlock)]

    def kept(self, bits: Bits | None) -> list[list[str]]:
        """Return the branches that a candidate keeps in each layer; None keeps all."""
        names: list[list[str]] = [[] for _ in self.layers]
        for index, (row, column) in enumerate(self.positions):
            if bits is None or bits[index]:
                names[row].append(self.branches[column])
        return names

    def architecture(self, bits: Bits) -> Architecture:
        """Return the Architecture of a candidate."""
        kept = dict(zip(self.layers, self.kept(bits), strict=True))
        return Architecture.from_branches(kept, self.branches)

    def bits(self, architecture: Architecture) -> Bits:
        """Return the candidate that `architecture` describes."""
        return np.array([architecture.matrix[row][column] for row, column in self.positions], dtype=bool)
