"""Strategies, which make a population from the previous one; one per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..supernet.space import SearchSpace
from .base import Strategy
from .des import Directional
from .evolution import Evolution
from .topk import TopK
from .uniform import Uniform

if TYPE_CHECKING:
    from irepdeploy.recipe import SearchSection

__all__ = ["STRATEGIES", "Strategy", "strategy"]

STRATEGIES: dict[str, type[Strategy]] = {"des": Directional, "evolution": Evolution, "random": Uniform, "topk": TopK}


def strategy(space: SearchSpace, settings: SearchSection) -> Strategy:
    """Make the strategy that a recipe names."""
    return STRATEGIES[settings.strategy](space, settings)
