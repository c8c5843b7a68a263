"""Every task meets the contract, including a user's task; a faulty one fails it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.tasks import Classification, Metric, Regression, Segmentation, Task
from irepdeploy.tasks.jackknife import Vector
from irepdeploy.testing import TaskContract


class TestClassification(TaskContract):
    classes = 4

    def task(self) -> Task:
        return Classification()

    def example(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        logits = torch.randn(count, self.classes, generator=random)
        return logits, torch.randint(self.classes, (count,), generator=random)


class TestManyClasses(TestClassification):
    classes = 20


class TestSegmentation(TaskContract):
    channels = 3

    def task(self) -> Task:
        return Segmentation(ignore_index=9)

    def example(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(max(2, self.channels), (count, 6, 5), generator=random)
        labels[:, 0] = 9
        return torch.randn(count, self.channels, 6, 5, generator=random), labels


class TestBinarySegmentation(TestSegmentation):
    channels = 1


class TestRegression(TaskContract):
    shape: tuple[int, ...] = ()

    def task(self) -> Task:
        return Regression()

    def example(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(count, *self.shape, generator=random), 100 + torch.randn(
            count, *self.shape, generator=random
        )


class TestRegressionOfMaps(TestRegression):
    shape = (2, 3, 4)

    def task(self) -> Task:
        return Regression("smooth_l1")


class Ordinal(Task):
    """A user's task: the distance of a predicted class from the true one."""

    name: ClassVar[str] = "ordinal"
    metric: ClassVar[Metric] = Metric("closeness")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        distance = (outputs.argmax(1) - targets).abs().to(outputs.dtype)
        return torch.stack([distance, F.cross_entropy(outputs, targets, reduction="none")], dim=1)

    def score(self, totals: Vector, count: int) -> float:
        return -float(totals[0]) / count


class TestOrdinal(TestClassification):
    def task(self) -> Task:
        return Ordinal()


class LessIsBetter(Ordinal):
    def score(self, totals: Vector, count: int) -> float:
        return float(totals[0]) / count


class MeanOfTheBatch(Ordinal):
    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = super().statistics(outputs, targets)
        return found.mean(0, keepdim=True).expand_as(found)


class OneNumber(Ordinal):
    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().statistics(outputs, targets).sum(0)


class NoGradient(Ordinal):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs, targets) * 0


@pytest.mark.parametrize("faulty", [LessIsBetter, MeanOfTheBatch, OneNumber, NoGradient])
def test_a_faulty_task_fails_the_contract(faulty: type[Task]) -> None:
    class Contract(TestClassification):
        def task(self) -> Task:
            return faulty()

    def passes(name: str) -> bool:
        try:
            getattr(Contract(), name)()
        except Exception:
            return False
        return True

    results: dict[str, Any] = {name: passes(name) for name in dir(Contract) if name.startswith("test_")}
    assert not all(results.values())
