"""How a population is made from the last one: one strategy a file."""

from __future__ import annotations

from irepdeploy.recipe import SearchSection

from ..space import SearchSpace
from .base import Strategy
from .des import Directional
from .uniform import Uniform

__all__ = ["STRATEGIES", "Strategy", "strategy"]

STRATEGIES: dict[str, type[Strategy]] = {"des": Directional, "random": Uniform}


def strategy(space: SearchSpace, settings: SearchSection) -> Strategy:
    """The strategy that a recipe names.

    Raises:
        RecipeError: the budget or the population does not fit the space.
    """
    return STRATEGIES[settings.strategy](space, settings)
