"""Importance of each block and branch to the supernet: sigmoid(beta) and sigmoid(alpha)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..supernet.space import SearchSpace

__all__ = ["Importance"]

Vector = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Importance:
    """sigmoid(alpha) by position of the search space and sigmoid(beta) by layer; both start at 0.5."""

    alpha: Vector
    beta: Vector
    layer: Vector

    @classmethod
    def of(cls, supernet: nn.Module, space: SearchSpace) -> Importance:
        """Read alpha and beta from the RepBlocks of `supernet`."""
        blocks = space.blocks(supernet)
        alpha = [_sigmoid(blocks[row].alpha[space.branches[column]]) for row, column in space.positions]
        beta = [0.5 if block.beta is None else _sigmoid(block.beta) for block in blocks]
        return cls(np.array(alpha), np.array(beta), space.layer)

    @property
    def score(self) -> Vector:
        """Return beta' * alpha' by position: the score of Eq. 10 without noise."""
        return self.beta[self.layer] * self.alpha

    def perturbed_score(self, random: np.random.Generator, *, clamp: bool = True) -> Vector:
        """Return (beta' + sigma_beta) * (alpha' + sigma_alpha) by position (Eq. 8 to 10).

        sigma is uniform in (a0 - max a, a0 - min a), over all layers, with separate ranges for alpha and beta.
        `clamp` keeps both factors at or above 0, since two negative ones would multiply to a good score. This deviates
        from the paper.
        """
        alpha = self.alpha + _noise(self.alpha, random)
        beta = self.beta + _noise(self.beta, random)
        if clamp:
            alpha, beta = np.maximum(alpha, 0), np.maximum(beta, 0)
        return beta[self.layer] * alpha


def _noise(values: Vector, random: np.random.Generator) -> Vector:
    start = 0.5
    return random.uniform(start - values.max(), start - values.min(), size=values.shape)


def _sigmoid(value: torch.Tensor) -> float:
    return float(torch.sigmoid(value.detach().double()))
