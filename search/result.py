"""Result of a search."""

from __future__ import annotations

from dataclasses import dataclass

from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.result import SearchFigures

from .evaluation.fitness import Fitness

__all__ = ["SearchResult"]


@dataclass(frozen=True)
class SearchResult:
    """The last population, best first, with its fitness by shared weights, and the figures of result.json."""

    population: tuple[Architecture, ...]
    fitnesses: tuple[Fitness, ...]
    figures: SearchFigures

    @property
    def best(self) -> Architecture:
        """The Architecture of the highest fitness in the last evolution."""
        return self.population[0]

    @property
    def fitness(self) -> Fitness:
        """Fitness of `best`."""
        return self.fitnesses[0]
