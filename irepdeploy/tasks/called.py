"""Calls to a user's task and network, which name the culprit of an exception and check the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from irepdeploy.errors import InputError, IrepdeployError, ModelError, one_line
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.tasks.batches import wide
from irepdeploy.tasks.jackknife import Rows
from irepdeploy.tasks.metric import Interval
from irepdeploy.tasks.task import Task

__all__ = ["blamed", "figures_of", "interval_of", "loss_of", "score_of", "statistics_of", "training_loss"]


@contextmanager
def blamed(what: str, where: str, kind: type[InputError] = InputError) -> Iterator[None]:
    """Convert exceptions raised by a user's code in the block to `kind`, except when memory runs out.

    Args:
        what: Name of the code, for the message.
        where: Place of the error.
        kind: Class of the error.
    """
    try:
        yield
    except IrepdeployError:
        raise
    except Exception as error:  # a user's code can raise anything
        if is_out_of_memory(error):
            raise
        raise kind(f"{what} raised {type(error).__name__}: {one_line(error)}", where=where) from error


def loss_of(task: Task, outputs: Any, targets: Any) -> Tensor:
    """Return the training loss of a batch, a scalar with a gradient.

    Raises:
        InputError: The task raises an exception or returns something else.
    """
    with _of(task, "loss"):
        loss = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point() or loss.is_meta:
        raise _expected(task, "loss", "a floating-point scalar", loss)
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise InputError("the loss has no gradient: it does not depend on a trainable weight", where=_name(task))
    return loss.reshape(())


def statistics_of(task: Task, outputs: Any, targets: Any, count: int) -> Tensor:
    """Return the statistics of `count` samples, of shape (count, K).

    Raises:
        InputError: The task raises an exception or returns something else.
    """
    with _of(task, "statistics"):
        found = task.statistics(outputs, targets)
    fits = isinstance(found, Tensor) and found.ndim == 2 and len(found) == count and found.shape[1] > 0
    if not fits or found.is_complex() or found.is_meta:
        raise _expected(task, "statistics", f"numbers of {count} samples, ({count}, K)", found)
    return torch.as_tensor(wide(found))


def training_loss(
    task: Task, call: Callable[..., Any], inputs: Any, targets: Any, *, whole: bool, when: str = "in train mode"
) -> Tensor:
    """Return the training loss of a batch.

    Args:
        task: The task.
        call: The network, or the task's `objective` (possibly wrapped).
        inputs: Inputs of the batch.
        targets: Targets of the batch.
        whole: Whether `call` is the `objective`, which returns the loss for inputs and targets, and not the network.
        when: State of the network, for error messages.

    Raises:
        ModelError: The network raises an exception.
        InputError: The task raises an exception or returns something else than a loss.
    """
    with blamed(f"the network {when}", "net", ModelError):
        outputs = call(inputs, targets) if whole else wide(task.outputs(call(inputs)))
    return wide(outputs) if whole else loss_of(task, outputs, targets)


def score_of(task: Task, rows: Rows) -> float:
    """Return the score for the statistics (K, N) of N samples.

    Raises:
        InputError: The task raises an exception or does not return a number.
    """
    with _of(task, "score"):
        found = task.score_rows(rows)
    return _number(task, "score", found)


def figures_of(task: Task, rows: Rows) -> dict[str, float]:
    """Return all figures that the task reports for the statistics (K, N) of N samples, by name.

    Raises:
        InputError: The task raises an exception or does not return numbers by name.
    """
    with _of(task, "figures"):
        found = task.figures_rows(rows)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise _expected(task, "figures", "a dictionary of numbers by name", found)
    return {name: _number(task, "figures", value) for name, value in found.items()}


def interval_of(task: Task, rows: Any) -> Interval | None:
    """Return the interval of the score for the statistics (K, N) of N samples.

    Raises:
        InputError: The task raises an exception or returns something else.
    """
    with _of(task, "interval"):
        found = task.interval(rows)
    if found is not None and not isinstance(found, Interval):
        raise _expected(task, "interval", "an Interval or None", found)
    return found


def _of(task: Task, method: str) -> Any:
    return blamed(method, _name(task))


def _name(task: Task) -> str:
    return f"task {task.name}"


def _number(task: Task, method: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise _expected(task, method, "a number", value) from None


def _expected(task: Task, method: str, what: str, got: Any) -> InputError:
    kind = type(got).__name__
    shown = f"{kind} {tuple(got.shape)} of {str(got.dtype).removeprefix('torch.')}" if isinstance(got, Tensor) else kind
    return InputError(f"expected {what} from {method}, got {shown}", where=_name(task))
