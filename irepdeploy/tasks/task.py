"""The contract of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from irepdeploy.tasks.batches import main_output, read_batch
from irepdeploy.tasks.jackknife import Rows, Vector, contributions, jackknife_interval, totals_of
from irepdeploy.tasks.metric import Interval, Metric

__all__ = ["Task"]


class Task(ABC):
    """What a network is trained and scored for; subclass it, and inherit `irepdeploy.testing.TaskContract` to test it.

    A score is a function of sums over samples: `statistics` gives the terms of each sample, `score` the score of their
    totals. So a set is scored in parts, on several processes, with an uncertainty, and candidates race on the samples
    that both have seen. A metric that is no such function, such as average precision, overrides `score_rows` and
    `figures_rows`.

        class WithinTolerance(Task):
            name = "within"
            metric = Metric("within 0.1", "%")

            def loss(self, outputs, targets):
                return (outputs - targets).abs().mean()

            def statistics(self, outputs, targets):
                error = (outputs - targets).abs()
                return torch.stack([(error < 0.1).float(), error], 1)

            def score(self, totals, count):
                return float(totals[0]) / count

    Attributes:
        name: Name of the task.
        metric: Name and unit of the score; higher is better.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch in training, a scalar."""

    @abstractmethod
    def statistics(self, outputs: Any, targets: Any) -> Tensor:
        """Return the statistics of each sample, (N, K); the last column is the sample's loss, which breaks ties."""

    @abstractmethod
    def score(self, totals: Vector, count: int) -> float:
        """Return the score of `count` samples from the sums of their statistics, (K,) float64."""

    def read(self, batch: Any) -> tuple[Any, Any]:
        """Return inputs and targets of a batch: of a pair, or of a dictionary with usual keys ("image", "label", ...).

        A tensor alone is its own target.
        """
        return read_batch(batch)

    def outputs(self, raw: Any) -> Any:
        """Return what `loss` and `statistics` take of what the network gives; by default its only tensor."""
        return main_output(raw)

    # Not abstract: a task that accepts every target needs none.
    def check(self, outputs: Any, targets: Any, where: str) -> None:  # noqa: B027
        """Raise InputError where `targets` do not fit `outputs`: a wrong shape, a label outside the classes.

        Args:
            outputs: Outputs for a batch of the same inputs.
            targets: Targets of the batch, or of more samples.
            where: Name of the data, for the message.
        """

    def figures(self, totals: Vector, count: int) -> dict[str, float]:
        """Return everything worth reporting of a finished run, by name; by default the score."""
        return {self.metric.name: self.score(totals, count)}

    def score_rows(self, statistics: Rows) -> float:
        """Return the score of (K, N) statistics; by default that of their totals."""
        return self.score(totals_of(statistics), statistics.shape[1])

    def figures_rows(self, statistics: Rows) -> dict[str, float]:
        """Return everything worth reporting of (K, N) statistics; by default that of their totals."""
        return self.figures(totals_of(statistics), statistics.shape[1])

    def bound(self, net: nn.Module) -> Task:
        """Return the task for the outputs of a network; by default the task itself."""
        return self

    def objective(self, net: nn.Module) -> nn.Module | None:
        """Return a module that gives the loss of inputs and targets, where `loss` of outputs is not enough.

        It contains `net`, so that several processes sum all gradients. None: `loss` is what is minimised.
        """
        return None

    def contributions(self, statistics: Rows) -> Vector:
        """Return (N,) contributions of samples to the score, from (K, N) statistics; their mean is the score."""
        return contributions(self.score, statistics)

    def interval(self, statistics: Rows) -> Interval | None:
        """Return the 95 % interval of the score of (K, N) statistics."""
        return jackknife_interval(self.score, statistics)

    def settings(self) -> dict[str, Any]:
        """Return what identifies the task in a run's folder: its name and its plain attributes."""
        plain = {key: value for key, value in vars(self).items() if isinstance(value, bool | int | float | str | None)}
        return {"name": self.name, **plain}
