"""The supernet for a custom training loop: masks, gradients of a step, and scoring and renewal of a population."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from irepdeploy.data import held, opened
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.insert import Where
from irepdeploy.tasks import Task, task_of

from .evaluation.evaluate import PopulationEvaluator
from .evaluation.fitness import Fitness
from .given import given_recipe
from .strategies import strategy
from .strategies.importance import Importance
from .supernet import supernet
from .supernet.space import Bits

__all__ = ["Supernet"]


class Supernet(supernet.Supernet):
    """A network with every possible branch. Its candidates are masks: bool arrays (possible branches,).

        supernet = ird.Supernet(net, task="segmentation", budget="1/2", population=16)
        population = supernet.first()
        for images, targets in loader:
            supernet.accumulate(images, targets, supernet.draw(population))  # fills .grad
            optimizer.step()
        fitness = supernet.score(population, val)
        population = supernet.next(population, fitness)
        best = supernet.best(population, fitness)

    Pass `weights()` and `arch_parameters()` to optimizers. `model` is the network, `space` its possible branches, and
    `select(mask)` activates the branches of a candidate, for a loss that you compute yourself.

    Args:
        net: Plain network; it is not changed.
        branches: Preset such as "ireps".
        where: Layers that take part, as in `insert_branches`.
        task: Name of a task or a Task, which defines the loss of `accumulate` and the metric of `score`.
        seed: Seed of masks and populations.
        device: Device of the supernet. Default: the device of `net`.
        settings: Keys of the recipe's section "search": budget, population, strategy, subnets_per_step, parents, ...

    Raises:
        RecipeError: A setting is unknown or invalid, or the budget keeps no branch.
    """

    def __init__(
        self,
        net: nn.Module,
        branches: str = "ireps",
        *,
        where: Where = "*",
        task: str | Task = "classification",
        seed: int = 0,
        device: str | torch.device | None = None,
        **settings: Any,
    ) -> None:
        self.settings = given_recipe(net, "search", settings, branches=branches).search
        step, compile_ = self.settings.step, self.settings.compile
        super().__init__(net, branches, where=where, task=task_of(task), step=step, compile=compile_)
        self._strategy = strategy(self.space, self.settings)
        self.budget = self._strategy.budget
        self._random = np.random.default_rng(seed)
        first = next(net.parameters(), None)
        place = first.device if device is None and first is not None else torch.device(device or "cpu")
        self.model.to(place)
        self._evaluator: PopulationEvaluator | None = None
        self._scored_on: Any = None

    def first(self) -> list[Bits]:
        """Return the first population, uniform over all candidates within the budget."""
        return self._strategy.first(self._random)

    def draw(self, population: Sequence[Bits], count: int | None = None) -> list[Bits]:
        """Return `count` random candidates of the population for a step. Default: `subnets_per_step`."""
        wanted = self.settings.subnets_per_step if count is None else count
        chosen = self._random.choice(len(population), size=wanted, replace=wanted > len(population))
        return [population[index] for index in chosen]

    def score(self, population: Sequence[Bits], val: Any) -> list[Fitness]:
        """Score candidates on search-validation samples. The supernet's mode and statistics do not change.

        Args:
            population: Masks of the candidates.
            val: Pair of tensors, Dataset, DataLoader, or another iterable of batches. If it fits into memory, it is
                read only once as long as the same object is passed.
        """
        if self._evaluator is None or self._scored_on is not val:
            weight = next(self.model.parameters())
            size = self.settings.evaluation.batch_size
            data = held(opened(val, self.task.read, "val", weight.dtype), size, weight.device)
            self._evaluator = PopulationEvaluator(self, data, size, mode=self.settings.evaluation.mode)
            self._scored_on = val
        self._evaluator.refresh()
        return self._evaluator.evaluate(population)

    def next(self, population: Sequence[Bits], fitness: Sequence[Fitness]) -> list[Bits]:
        """Return the next population, which the strategy makes from fitness, alpha and beta."""
        importance = Importance.of(self.model, self.space)
        return self._strategy.next(population, _ranking(fitness), importance, self._random)

    def best(self, population: Sequence[Bits], fitness: Sequence[Fitness]) -> Architecture:
        """Return the Architecture of the fittest candidate."""
        return self.space.architecture(population[_ranking(fitness)[0]])


def _ranking(fitness: Sequence[Fitness]) -> list[int]:
    return sorted(range(len(fitness)), key=lambda index: fitness[index], reverse=True)
