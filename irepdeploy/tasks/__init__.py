"""Tasks define how a batch is read, and how outputs become a loss and a score (higher is better)."""

from __future__ import annotations

from irepdeploy.tasks.classification import TOP_5, Classification
from irepdeploy.tasks.detection import Detection
from irepdeploy.tasks.metric import Interval, Metric
from irepdeploy.tasks.registry import TASKS, task_of
from irepdeploy.tasks.regression import Regression
from irepdeploy.tasks.segmentation import Segmentation
from irepdeploy.tasks.task import Task

__all__ = [
    "TASKS", "TOP_5", "Classification", "Detection", "Interval", "Metric", "Regression", "Segmentation", "Task",
    "task_of",
]  # fmt: skip
