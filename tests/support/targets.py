"""Targets of small detectors."""

from __future__ import annotations

import torch

from irepdeploy.detect.target import Target, Targets

__all__ = ["some_targets", "target"]


def target(boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, image_id: int = 0) -> Target:
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(crowd or [False] * len(labels), dtype=torch.bool),
        image_id,
        (64, 64),
    )


def some_targets() -> Targets:
    """Return targets of an image with two objects and a crowd, one at the border, and of an image without objects."""
    return Targets(
        [
            target([[4, 4, 20, 30.5], [30, 30, 50, 55], [0, 0, 64, 64]], [1, 3, 2], [False, False, True]),
            target([[52, 50, 64, 64]], [9], image_id=1),
            target([], [], image_id=2),
        ]
    )
