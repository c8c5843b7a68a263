"""The interface of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from irepdeploy.tasks.batches import main_output, read_batch
from irepdeploy.tasks.jackknife import Rows, Vector, contributions, jackknife_interval, totals_of
from irepdeploy.tasks.metric import Interval, Metric

__all__ = ["Task"]


class Task(ABC):
    """Base class of tasks, which define how a network is trained and scored.

    To test a subclass, inherit from `irepdeploy.testing.TaskContract`.

    A score is a function of sums over samples: `statistics` returns the terms of each sample, and `score` computes the
    score from their totals. This makes it possible to score a set in parts and on several processes, to estimate the
    uncertainty, and to race candidates on the samples that both have seen. For a metric that is not such a function,
    such as average precision, override `score_rows` and `figures_rows`.

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
        """Return the mean training loss of a batch, a scalar."""

    @abstractmethod
    def statistics(self, outputs: Any, targets: Any) -> Tensor:
        """Return the statistics (N, K) of each sample. The last column is the sample's loss, which breaks ties."""

    @abstractmethod
    def score(self, totals: Vector, count: int) -> float:
        """Return the score of `count` samples from the sums of their statistics, a float64 vector (K,)."""

    def read(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and targets of a batch: a pair, or a dictionary with usual keys ("image", "label", ...).

        A single tensor is its own target.
        """
        return read_batch(batch)

    def outputs(self, raw: Any) -> Any:
        """Convert the network's raw output to the `outputs` of `loss` and `statistics`; by default its only tensor."""
        return main_output(raw)

    # Not abstract, because a task that accepts every target does not need it.
    def check(self, outputs: Any, targets: Any, where: str) -> None:  # noqa: B027
        """Raise InputError if `targets` do not match `outputs`: a wrong shape, or a label outside the classes.

        Args:
            outputs: Outputs of the network for a batch.
            targets: Targets of the batch, or of more samples.
            where: Name of the data, for the message.
        """

    def figures(self, totals: Vector, count: int) -> dict[str, float]:
        """Return all figures to report for a finished run, by name; by default the score alone."""
        return {self.metric.name: self.score(totals, count)}

    def score_rows(self, statistics: Rows) -> float:
        """Return the score for the statistics (K, N) of N samples; by default the score of their totals."""
        return self.score(totals_of(statistics), statistics.shape[1])

    def figures_rows(self, statistics: Rows) -> dict[str, float]:
        """Return all figures to report for the statistics (K, N) of N samples; by default those of their totals."""
        return self.figures(totals_of(statistics), statistics.shape[1])

    def bound(self, net: nn.Module) -> Task:
        """Return the task for the outputs of a network; by default the task itself."""
        return self

    def objective(self, net: nn.Module) -> nn.Module | None:
        """Return a module that computes the loss from inputs and targets, or None to minimize `loss` of the outputs.

        The module must contain `net`, so that the gradients of several processes are summed.
        """
        return None

    def contributions(self, statistics: Rows) -> Vector:
        """Return each sample's contribution (N,) to the score from the statistics (K, N); their mean is the score."""
        return contributions(self.score, statistics)

    def interval(self, statistics: Rows) -> Interval | None:
        """Return the 95 % interval of the score for the statistics (K, N); None if there are too few samples."""
        return jackknife_interval(self.score, statistics)

    def settings(self) -> dict[str, Any]:
        """Return the name and plain attributes of the task, which identify it in the folder of a run."""
        plain = {key: value for key, value in vars(self).items() if isinstance(value, bool | int | float | str | None)}
        return {"name": self.name, **plain}
