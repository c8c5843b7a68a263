"""The objects that a detector found in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from irepdeploy.errors import InputError

__all__ = ["Detections"]


@dataclass(frozen=True)
class Detections:
    """The objects that a detector found in one image.

    Args:
        boxes: Corners x0, y0, x1, y1 (n, 4) in pixels of the image.
        scores: Scores (n,) from 0 to 1.
        labels: Class indices (n,) int64.
        names: Class names in the order of the labels; () to show the numbers.
        category_ids: Ids of the classes in COCO files, in the order of the labels; () for the label + 1.
        image: Image that `draw` draws on: a Pillow image, or a uint8 array (H, W) or (H, W, 3).

    Raises:
        InputError: The shapes do not match.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    image: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        shapes = tuple(self.boxes.shape), tuple(self.scores.shape), tuple(self.labels.shape)
        count = len(self.scores)
        if shapes != ((count, 4), (count,), (count,)):
            raise InputError(
                "expected boxes (n, 4), scores (n,) and labels (n,), got {}, {} and {}".format(*shapes),
                where="detections",
            )

    @classmethod
    def of_batch(
        cls, num_dets: Tensor, boxes: Tensor, scores: Tensor, classes: Tensor, **facts: Any
    ) -> list[Detections]:
        """Return the detections of each image from the outputs of a detector.

        Args:
            num_dets: Number of valid rows (N, 1).
            boxes: Corners (N, K, 4).
            scores: Scores (N, K).
            classes: Class indices (N, K).
            facts: Other arguments of `Detections`.
        """
        counts = num_dets.flatten().tolist()
        return [
            cls(boxes[row, :count], scores[row, :count], classes[row, :count].long(), **facts)
            for row, count in enumerate(counts)
        ]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Return the detections with at least this score, highest score first."""
        order = self.scores.argsort(descending=True, stable=True)
        return self[order[self.scores[order] >= score]]

    def __getitem__(self, index: slice | Tensor) -> Detections:
        return replace(self, boxes=self.boxes[index], scores=self.scores[index], labels=self.labels[index])

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file, whose ``bbox`` is left, top, width and height."""
        corners = self.boxes.double()
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        ids = [self.category_ids[label] if self.category_ids else label + 1 for label in self.labels.tolist()]
        return [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(ids, boxes, self.scores.double().tolist(), strict=True)
        ]

    def draw(self, image: Any = None) -> Any:
        """Return a Pillow image with the boxes, classes and scores drawn on it. Small images are enlarged.

        Args:
            image: Pillow image, or uint8 array (H, W) or (H, W, 3). Default: the image of the detections.

        Raises:
            InputError: There is no image.
        """
        from irepdeploy.detect.drawing import drawn

        given = self.image if image is None else image
        if given is None:
            raise InputError("these detections contain no image", where="draw", hint="pass it: .draw(image)")
        return drawn(given, self.boxes.tolist(), self._texts(), self.labels.tolist())

    def name_of(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return self.names[label] if label < len(self.names) else str(label)

    def _texts(self) -> Sequence[str]:
        pairs = zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        return [f"{self.name_of(label)} {score:.2f}" for label, score in pairs]
