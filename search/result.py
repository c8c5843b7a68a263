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
    """Result of a search.

    Args:
        population: Architectures of the last population, best first.
        fitnesses: Their fitness with the shared weights of the supernet.
        figures: Contents of result.json.
        folder: Folder of the run.
    """

    population: tuple[Architecture, ...]
    fitnesses: tuple[Fitness, ...]
    figures: SearchFigures
    folder: Path = field(default=Path(), compare=False)

    @property
    def best(self) -> Architecture:
        """The fittest Architecture of the last population."""
        return self.population[0]

    @property
    def fitness(self) -> Fitness:
        """Fitness of `best`."""
        return self.fitnesses[0]

    @property
    def pareto(self) -> ParetoSet:
        """The population with the training cost of each candidate, read from the run's folder."""
        return ParetoSet.read(self.folder / "pareto.json")

    @property
    def journal(self) -> SearchJournal:
        """The journal of the run, read from the run's folder."""
        return SearchJournal.read(self.folder)
