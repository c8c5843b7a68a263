"""Subject of a run: the network, the data and the task, from a recipe or given by the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from irepdeploy.data import Dataset, Split, Stream
from irepdeploy.files import canonical_json
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.insert import Where
from irepdeploy.runs.schema import MetricFacts
from irepdeploy.tasks import Classification, Task

from .builders import build_net, load_data

__all__ = ["GIVEN", "Subject", "subject_of", "with_data"]

# The data set of a recipe whose network, data and task a caller gave.
GIVEN = "given"


@dataclass(frozen=True)
class Subject:
    """What a run searches or trains.

    Args:
        net: the plain network; it is not changed.
        train: training samples.
        val: search-validation samples.
        load_test: opens the test samples; None if there are none.
        input_shape: (C, H, W).
        where: layers that get branches, as in `insert_branches`.
        facts: what identifies network and data where the recipe does not name them.
    """

    net: nn.Module
    task: Task
    train: Split | Stream
    val: Split | Stream
    load_test: Callable[[], Split | Stream | None]
    input_shape: tuple[int, ...]
    where: Where = "*"
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> MetricFacts | None:
        """The metric as files record it: None for accuracy."""
        metric = self.task.metric
        return None if metric == Classification.metric else MetricFacts(name=metric.name, unit=metric.unit)

    @property
    def recorded(self) -> dict[str, Any]:
        """Return the metric as an argument of what is recorded; nothing for accuracy."""
        return {} if self.metric is None else {"metric": self.metric}

    def identity(self, recipe: str) -> str:
        """Return what identifies a run of this subject by a recipe, which is all of it if the recipe names it."""
        return recipe if not self.facts else canonical_json([recipe, self.facts]).decode()


def subject_of(recipe: Recipe, task: Task | None = None) -> Subject:
    """Load the data and build the network of a recipe, and set seed and threads."""
    data = load_data(recipe)
    return with_data(build_net(recipe, data), data, task)


def with_data(net: nn.Module, data: Dataset, task: Task | None = None) -> Subject:
    """Return the subject of a network and one of our data sets."""
    task = Classification() if task is None else task
    return Subject(net, task, data.train, data.val, data.load_test, data.input_shape)
