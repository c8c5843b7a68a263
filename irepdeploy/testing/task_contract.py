"""Tests that every task must pass. Inherit from them in the tests of your own task.

    class TestMine(TaskContract):
        def task(self):
            return Mine()

        def example(self, count, random):
            return torch.randn(count, 3, generator=random), torch.randint(3, (count,), generator=random)

The tests need pytest.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.nested import mapped
from irepdeploy.tasks import Metric, Task
from irepdeploy.tasks.jackknife import Rows, totals_of

__all__ = ["TaskContract"]

_COUNT = 12


class TaskContract:
    """Base class for the tests of a task. Override `task` and `example`."""

    def task(self) -> Task:
        """Return the task under test."""
        raise NotImplementedError

    def example(self, count: int, random: torch.Generator) -> tuple[Any, Any]:
        """Return a network's outputs for `count` samples and their targets, both batched along the first axis."""
        raise NotImplementedError

    def made(self, seed: int = 0) -> tuple[Any, Any]:
        """Return an example of twelve samples."""
        return self.example(_COUNT, torch.Generator().manual_seed(seed))

    def rows(self, outputs: Any, targets: Any) -> Rows:
        """Return the statistics (K, N), in the layout of a search."""
        return self.task().statistics(outputs, targets).T.contiguous().numpy()

    def scored(self, rows: Rows) -> float:
        """Return the score for the statistics."""
        return self.task().score(totals_of(rows), rows.shape[1])

    def test_it_has_a_name_and_a_metric(self) -> None:
        task = self.task()
        assert task.name and task.settings()["name"] == task.name
        assert isinstance(task.metric, Metric) and task.metric.name
        assert math.isfinite(float(self.scored(self.rows(*self.made()))))

    def test_the_loss_is_a_finite_scalar_with_a_gradient(self) -> None:
        outputs, targets = self.made()
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            leaves.append(tensor.clone().requires_grad_())
            return leaves[-1]

        loss = self.task().loss(mapped(leaf, outputs), targets)
        assert loss.shape == () and bool(torch.isfinite(loss))
        loss.backward()
        assert any(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves)

    def test_statistics_are_one_row_of_finite_numbers_per_sample(self) -> None:
        outputs, targets = self.made()
        found = self.task().statistics(outputs, targets)
        assert found.ndim == 2 and len(found) == _COUNT and found.is_floating_point()
        assert bool(torch.isfinite(found).all())

    def test_a_sample_counts_alike_whoever_is_beside_it(self) -> None:
        outputs, targets = self.made()
        together = self.rows(outputs, targets)
        for start in range(0, _COUNT, 5):
            part = operator.itemgetter(slice(start, start + 5))
            alone = self.rows(mapped(part, outputs), mapped(part, targets))
            assert np.allclose(alone, together[:, start : start + 5], rtol=1e-5, atol=1e-7)

    def test_the_contributions_have_the_score_as_their_mean(self) -> None:
        rows = self.rows(*self.made(1))
        found = self.task().contributions(rows)
        assert found.shape == (_COUNT,)
        assert np.isclose(float(np.mean(found, dtype=np.float64)), self.scored(rows), rtol=1e-5, atol=1e-7)
        interval = self.task().interval(rows)
        assert interval is not None and interval.method
        assert interval.low <= self.scored(rows) + 1e-6 and self.scored(rows) <= interval.high + 1e-6

    def test_training_the_outputs_raises_the_score(self) -> None:
        """Detect a metric for which lower is better, and a loss that does not match the metric."""
        outputs, targets = self.made(2)
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            leaves.append(tensor.clone().requires_grad_())
            return leaves[-1]

        trained = mapped(leaf, outputs)
        optimizer = torch.optim.Adam(leaves, lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            self.task().loss(trained, targets).backward()
            optimizer.step()
        before, after = self.rows(outputs, targets), self.rows(mapped(Tensor.detach, trained), targets)
        assert self.scored(after) > self.scored(before)
        assert after[-1].mean() < before[-1].mean()

    def test_its_own_example_is_accepted(self) -> None:
        self.task().check(*self.made(), "example")

    def test_it_reports_its_metric(self) -> None:
        rows = self.rows(*self.made())
        found = self.task().figures(totals_of(rows), _COUNT)
        assert found[self.task().metric.name] == self.scored(rows)
