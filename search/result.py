"""Result of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.journal import SearchJournal
from irepdeploy.runs.pareto import ParetoSet
from irepdeploy.runs.result import SearchFigures

from .evaluation.fitness import Fitness

__all__ = ["SearchResult"]


@dataclass(frozen=True)
class SearchResult:
    """The last population, best first, with its fitness by shared weights, and the figures of result.json."""

    population: tuple[Architecture, ...]
    fitnesses: tuple[Fitness, ...]
    figures: SearchFigures
    folder: Path = field(default=Path(), compare=False)

    @property
    def best(self) -> Architecture:
        """The Architecture of the highest fitness in the last evolution."""
        return self.population[0]

    @property
    def fitness(self) -> Fitness:
        """Fitness of `best`."""
        return self.fitnesses[0]

    @property
    def pareto(self) -> ParetoSet:
        """The population with what training each candidate costs, read from the run's folder."""
        return ParetoSet.read(self.folder / "pareto.json")

    @property
    def journal(self) -> SearchJournal:
        """Everything that was seen on the way, read from the run's folder."""
        return SearchJournal.read(self.folder)
