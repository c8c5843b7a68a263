"""Exceptions and invalid results of a user's task give one line that names the task and the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import irepdeploy as ird
from irepdeploy.errors import InputError, ModelError
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.tasks import Classification, Task
from support.foreign import Samples, TinyNet, pairs

FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "loss raises": ({"loss": lambda self, o, t: 1 / 0}, "task mine: loss raised ZeroDivisionError: division by zero"),
    "loss of each": (
        {"loss": lambda self, o, t: o[:, 0]},
        "expected a floating-point scalar from loss, got Tensor (2,) of float32",
    ),
    "loss is a float": ({"loss": lambda self, o, t: 1.0}, "expected a floating-point scalar from loss, got float"),
    "loss is nothing": ({"loss": lambda self, o, t: None}, "expected a floating-point scalar from loss, got NoneType"),
    "loss is whole": ({"loss": lambda self, o, t: torch.tensor(1)}, "expected a floating-point scalar from loss"),
    "loss is detached": ({"loss": lambda self, o, t: o.mean().detach()}, "task mine: the loss has no gradient"),
    "one row": ({"statistics": lambda self, o, t: o[:, 0]}, "expected numbers of 2 samples, (2, K) from statistics"),
    "other samples": ({"statistics": lambda self, o, t: o[:1]}, "from statistics, got Tensor (1, 3) of float32"),
    "an array": ({"statistics": lambda self, o, t: np.zeros((2, 2))}, "from statistics, got ndarray"),
    "score raises": ({"score": lambda self, totals, n: [][3]}, "task mine: score raised IndexError"),
    "score is text": ({"score": lambda self, totals, n: "good"}, "task mine: expected a number from score, got str"),
    "score is infinite": ({"score": lambda self, totals, n: float("inf")}, "metric accuracy of these targets is inf"),
    "figures raise": ({"figures": lambda self, totals, n: 1 / 0}, "task mine: figures raised ZeroDivisionError"),
    "figures by number": ({"figures": lambda self, totals, n: {1: 1.0}}, "expected a dictionary of numbers by name"),
    "interval is a pair": ({"interval": lambda self, rows: (0, 1)}, "an Interval or None from interval, got tuple"),
    "check raises": ({"check": lambda self, o, t, where: 1 / 0}, "task mine: check raised ZeroDivisionError"),
    "outputs raise": ({"outputs": lambda self, raw: 1 / 0}, "task mine: outputs raised ZeroDivisionError"),
    "read raises": ({"read": lambda self, batch: 1 / 0}, "train: reading a batch raised ZeroDivisionError"),
    "read gives one": ({"read": lambda self, batch: batch[0]}, "train: reading a batch raised ValueError"),
    "no metric": ({"metric": None}, "task: Mine needs a name and a metric"),
}  # fmt: skip


class Whole(Classification):
    """Intervals by the jackknife, of scores that are given in odd types."""

    name = "whole"
    interval = Task.interval  # type: ignore[assignment]
    contributions = Task.contributions


def mine(**methods: Any) -> Classification:
    return type("Mine", (Classification,), {"name": "mine", **methods})()


def train(out: Path, net: Any = None, **changes: Any) -> Any:
    given: dict[str, Any] = {"train": pairs(8), "val": pairs(6, 1), "epochs": 2, "batch_size": 4, "threads": 1}
    return ird.train(net or TinyNet(pool=True), out=out, **{**given, **changes})


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_task_are_named_before_the_first_epoch(fault: str, tmp_path: Path) -> None:
    methods, words = FAULTS[fault]
    with pytest.raises(InputError) as caught:
        train(tmp_path / "out", task=mine(**methods))
    assert words in caught.value.line
    assert not (tmp_path / "out").exists()


def test_a_loss_that_fails_later_is_named_and_the_state_is_kept(tmp_path: Path) -> None:
    calls = []

    def loss(self: Classification, outputs: Any, targets: Any) -> Any:
        calls.append(1)
        # One of the check before, two of each epoch.
        if len(calls) > 4:
            raise KeyError("late")
        return Classification.loss(self, outputs, targets)

    with pytest.raises(InputError, match="task mine: loss raised KeyError: 'late'"):
        train(tmp_path, task=mine(loss=loss))
    assert (tmp_path / "state.pt").exists()


def test_a_score_of_another_type_of_number_is_one(tmp_path: Path) -> None:
    for number in (np.float32(0.5), torch.tensor(0.5), True, 1):
        score: dict[str, Any] = {"score": lambda self, totals, n, number=number: number}
        done = train(tmp_path, task=type("Odd", (Whole,), score)(), overwrite=True)
        assert done.result.val_accuracy == float(number)


def test_statistics_in_half_precision_are_numbers_too(tmp_path: Path) -> None:
    def statistics(self: Classification, outputs: Any, targets: Any) -> Any:
        return Classification.statistics(self, outputs, targets).bfloat16()

    assert train(tmp_path, task=mine(statistics=statistics)).result.val_accuracy >= 0


def test_data_that_does_not_fit_the_network_is_named(tmp_path: Path) -> None:
    wide = (pairs(6, 1)[0].repeat(1, 2, 1, 1), pairs(6, 1)[1])
    wrong = (pairs(6, 1)[0], pairs(6, 1)[1] + 5)
    for name, data, words in (
        ("val", wide, "val: the network cannot read inputs of 2x6x6"),
        ("test", wide, "test: the network cannot read inputs of 2x6x6"),
        ("test", wrong, "test: labels outside the classes"),
        ("train", (np.array(["a"] * 8), np.zeros(8)), "train: expected arrays of numbers"),
        ("train", (torch.zeros(()), torch.zeros(())), "train: expected arrays with a row for each sample"),
    ):
        with pytest.raises(InputError) as caught:
            train(tmp_path / "out", **{name: data})
        assert words in caught.value.line
    assert not (tmp_path / "out").exists()


def test_a_length_that_fails_is_named(tmp_path: Path) -> None:
    class Unready(Samples):
        def __len__(self) -> int:
            raise RuntimeError("not downloaded")

    with pytest.raises(InputError, match="train: its length raised RuntimeError: not downloaded"):
        train(tmp_path / "out", train=Unready(pairs(8)))


def test_networks_that_cannot_be_trained_are_named(tmp_path: Path) -> None:
    class Fails(TinyNet):
        def forward(self, x: Any) -> Any:
            if self.training:
                raise ValueError("not here")
            return super().forward(x)

    for net, words in (
        (Fails(pool=True), "net: the network in train mode raised ValueError: not here"),
        (TinyNet(pool=True).half(), "stem.0.weight: float16 weights cannot be trained"),
        (TinyNet(pool=True).to("meta"), "stem.0.weight: a weight without values"),
    ):
        with pytest.raises(ModelError) as caught:
            train(tmp_path / "out", net)
        assert words in caught.value.line
    for changes, words in (
        ({"out": 3}, "out: expected a path, got int"),
        ({"callbacks": [3]}, "callbacks: expected a list of functions"),
        ({"architecture": 3}, "expected an Architecture, or its file or name, got int"),
        ({"optimizer": torch.optim.LBFGS}, "optimizer: LBFGS needs a loss several times a step"),
    ):
        with pytest.raises(InputError) as wrong:
            train(**{"out": tmp_path / "out", **changes})
        assert words in wrong.value.line
    assert not (tmp_path / "out").exists()


def test_a_fused_network_is_trained_again(tmp_path: Path) -> None:
    plain = fuse(insert_branches(TinyNet(pool=True)).eval())
    done = train(tmp_path, plain)
    assert ird.compare(done.model, fuse(done.model), pairs(4)[0]).ok
    assert ird.compare(done.model, ird.load(tmp_path / "best.pt", model=plain), pairs(4)[0]).max_rel_error == 0
    # The original network without branches works as well.
    assert ird.compare(done.model, ird.load(tmp_path / "best.pt", model=lambda: TinyNet(pool=True)), pairs(4)[0]).ok
