"""Check that a user's network, data and task fit together before a long run starts."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.data import Split, Stream
from irepdeploy.errors import InputError, IrepdeployError, ModelError, one_line
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.tasks import Classification, Task
from irepdeploy.tasks.batches import wide
from irepdeploy.tasks.called import blamed, interval_of, loss_of, statistics_of, training_loss

from ..supernet.subject import Subject
from .fitness import Outcome, outcome_of

__all__ = ["TargetCheck", "preflight"]

_FEW = 2
_SEVERAL = "search and train pass one input; for several, use insert_branches in your own training loop"


class TargetCheck:
    """Checks targets against outputs of the network, such as labels against the number of classes."""

    def __init__(self, task: Task, outputs: Any, where: str) -> None:
        self._task, self._outputs, self._where = task, outputs, where

    def __call__(self, targets: Any) -> None:
        """Raise InputError if the targets do not fit the outputs."""
        with blamed("check", f"task {self._task.name}"):
            self._task.check(self._outputs, targets, self._where)


@torch.no_grad()
def preflight(
    network: nn.Module,
    subject: Subject,
    batch_size: int,
    device: torch.device,
    test: Split | Stream | None = None,
) -> TargetCheck:
    """Run the network in eval mode on a few samples, check targets, loss and score, and return the check of targets.

    This also covers what is needed only at the end of a run, so that no error surfaces after hours of training.

    Raises:
        ModelError: The network cannot process the inputs.
        InputError: Targets do not fit the outputs, the data is empty, or the score is not a number.
    """
    task, training = subject.task, network.training
    network.eval()
    try:
        inputs, targets = _first(subject.train, batch_size, device)
        outputs = wide(_run(network, task, inputs, "train"))
        _check_classes(outputs, subject)
        check = TargetCheck(task, outputs, "train")
        check(subject.train.labels if isinstance(subject.train, Split) else targets)
        objective = task.objective(network)
        if objective is None:
            loss_of(task, outputs, targets)
        else:
            training_loss(task, objective.eval(), inputs, targets, whole=True, when="in eval mode")
        statistics_of(task, outputs, targets, len(inputs))
        for name, data in (("val", subject.val), ("test", test)):
            if data is None:
                continue
            inputs, targets = _first(data, batch_size, device)
            outputs = wide(_run(network, task, inputs, name))
            TargetCheck(task, outputs, name)(data.labels if isinstance(data, Split) else targets)
            few = Outcome.of([statistics_of(task, outputs, targets, len(inputs))], task)
            _ = few.fitness, few.contributions, few.figures, interval_of(task, few.statistics)
        val = subject.val
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


def _check_classes(outputs: Any, subject: Subject) -> None:
    """Raise InputError if a classifier has fewer outputs than the data names classes."""
    known = subject.classes if isinstance(subject.task, Classification) else None
    if known is not None and isinstance(outputs, Tensor) and outputs.ndim == 2 and 1 < outputs.shape[1] < known:
        raise InputError(
            f"the network has {outputs.shape[1]} outputs for the {known} classes of the data",
            where="net",
            hint=f"give it one output for each class; in a recipe, net.args.NAME={known} is an argument of its factory",
        )


def _first(data: Split | Stream, batch_size: int, device: torch.device) -> tuple[Tensor, Any]:
    if isinstance(data, Split):
        return data.images[:_FEW].to(device), data.labels[:_FEW].to(device)
    found = next(data.in_order(batch_size, device), None)
    assert found is not None
    return found


def _takes_one(network: nn.Module) -> bool:
    try:
        inspect.signature(network.forward).bind(None)
    except TypeError:
        return False
    except ValueError:  # a forward without a signature
        pass
    return True


def _run(network: nn.Module, task: Task, inputs: Tensor, name: str) -> Any:
    try:
        raw = network(inputs)
    except Exception as error:  # anything that a user's network raises
        if is_out_of_memory(error) or isinstance(error, IrepdeployError):
            raise
        size = "x".join(map(str, inputs.shape[1:]))
        where = "net" if name == "train" else name
        text = f"the network cannot read inputs of {size}: {one_line(error)}"
        raise ModelError(text, where=where, hint=None if _takes_one(network) else _SEVERAL) from error
    with blamed("outputs", f"task {task.name}"):
        return task.outputs(raw)
