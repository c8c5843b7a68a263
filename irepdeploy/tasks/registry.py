"""Registry of tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.tasks.classification import Classification
from irepdeploy.tasks.detection import Detection
from irepdeploy.tasks.metric import Metric
from irepdeploy.tasks.regression import Regression
from irepdeploy.tasks.segmentation import Segmentation
from irepdeploy.tasks.task import Task

__all__ = ["TASKS", "task_of"]

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification, Segmentation, Regression, Detection)}


def task_of(task: str | Task, **settings: Any) -> Task:
    """Return the task with this name, created with the settings, or the given task itself.

    Args:
        task: Name of a task, or a task of the user.
        settings: Arguments of the task's class; only with a name.

    Raises:
        InputError: There is no such task, or it lacks one of the settings.
    """
    if isinstance(task, Task):
        if settings:
            raise InputError(f"{', '.join(settings)}: already set by the given task", where="task")
        if not isinstance(getattr(task, "name", None), str) or not isinstance(getattr(task, "metric", None), Metric):
            raise InputError(
                f"{type(task).__name__} needs a name and a metric", where="task", hint='metric = Metric("IoU", "%")'
            )
        return task
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"unknown task {task!r}", where="task", hint=f"one of {', '.join(TASKS)}, or your own Task")
    kind = TASKS[task]
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all of TASKS are dataclasses
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InputError(
            f"the task {task} has no {', '.join(unknown)}", where="task", hint=f"it has {', '.join(sorted(known))}"
        )
    return kind(**settings)
