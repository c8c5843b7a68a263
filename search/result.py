"""Result of a search."""

from __future__ import annotations

from dataclasses import dataclass

from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.result import SearchFigures

from .evaluation.evaluate import Fitness

__all__ = ["SearchResult"]

_SECONDS_A_DAY = 86400


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    `fitness` is that of `best`, and `fitnesses` those of the last `population`, best first, by the supernet's shared
    weights; `seconds` are of the whole run, resumed parts added.
    """

    best: Architecture
    fitness: Fitness
    population: tuple[Architecture, ...]
    fitnesses: tuple[Fitness, ...]
    evaluations: int
    seconds: float
    alpha_spread: float
    beta_spread: float
    device: str
    devices: int

    @property
    def device_days(self) -> float:
        """Days of all devices together: GPU-days where they are GPUs."""
        return self.seconds * self.devices / _SECONDS_A_DAY

    @property
    def figures(self) -> SearchFigures:
        """The content of result.json."""
        return SearchFigures(
            best_digest=self.best.digest,
            branches=self.best.count,
            val_accuracy=self.fitness.accuracy,
            val_loss=-self.fitness.negative_loss,
            evaluations=self.evaluations,
            seconds=self.seconds,
            device=self.device,
            devices=self.devices,
            device_days=self.device_days,
            alpha_spread=self.alpha_spread,
            beta_spread=self.beta_spread,
        )
