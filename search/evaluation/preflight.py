"""Check a caller's network, data and task against each other before hours of work."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.data import Split, Stream
from irepdeploy.errors import InputError, IrepdeployError, ModelError, one_line
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.tasks import Task
from irepdeploy.tasks.batches import wide

from ..supernet.subject import Subject
from .fitness import outcome_of

__all__ = ["TargetCheck", "preflight"]

_FEW = 2


class TargetCheck:
    """Checks targets against outputs of the network, such as labels against the number of classes."""

    def __init__(self, task: Task, outputs: Any, where: str) -> None:
        self._task, self._outputs, self._where = task, outputs, where

    def __call__(self, targets: Any) -> None:
        """Raise InputError where targets do not fit."""
        self._task.check(self._outputs, targets, self._where)


@torch.no_grad()
def preflight(network: nn.Module, subject: Subject, batch_size: int, device: torch.device) -> TargetCheck:
    """Run the network in eval mode on a few samples, and check targets, loss and score; return the check of targets.

    Raises:
        ModelError: The network cannot read the inputs.
        InputError: Targets do not fit the outputs, the data ends at once, or the score is no number.
    """
    task, training = subject.task, network.training
    network.eval()
    try:
        inputs, targets = _first(subject.train, batch_size, device)
        outputs = wide(_run(network, task, inputs))
        check = TargetCheck(task, outputs, "train")
        check(subject.train.labels if isinstance(subject.train, Split) else targets)
        _call("loss", task, outputs, targets)
        val = subject.val
        TargetCheck(task, outputs, "val")(val.labels if isinstance(val, Split) else _first(val, batch_size, device)[1])
        _call("statistics", task, outputs, targets)
        if isinstance(val, Split):
            value = outcome_of(network, val, batch_size, task).fitness.value
            if not math.isfinite(value):
                broken = isinstance(val.images, Tensor) and not bool(torch.isfinite(val.images).all())
                raise InputError(
                    f"the metric {task.metric.name} of these {'inputs' if broken else 'targets'} is {value}",
                    where="val",
                    hint="some of them are NaN or infinite"
                    if broken
                    else "are there enough samples of different targets?",
                )
    finally:
        network.train(training)
    return check


def _first(data: Split | Stream, batch_size: int, device: torch.device) -> tuple[Tensor, Any]:
    if isinstance(data, Split):
        return data.images[:_FEW].to(device), data.labels[:_FEW].to(device)
    found = next(data.in_order(batch_size, device), None)
    assert found is not None
    return found


def _run(network: nn.Module, task: Task, inputs: Tensor) -> Any:
    try:
        raw = network(inputs)
    except Exception as error:  # anything that a user's network raises
        if is_out_of_memory(error) or isinstance(error, IrepdeployError):
            raise
        size = "x".join(map(str, inputs.shape[1:]))
        raise ModelError(f"the network cannot read inputs of {size}: {one_line(error)}", where="net") from error
    return task.outputs(raw)


def _call(what: str, task: Task, outputs: Any, targets: Any) -> None:
    try:
        getattr(task, what)(outputs, targets)
    except Exception as error:  # anything that a user's task raises
        if is_out_of_memory(error) or isinstance(error, IrepdeployError):
            raise
        raise InputError(
            f"{what} raised {type(error).__name__}: {one_line(error)}", where=f"task {task.name}"
        ) from error
