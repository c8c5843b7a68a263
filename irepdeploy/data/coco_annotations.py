"""Read object annotations in COCO format (instances_*.json) by the rules of pycocotools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irepdeploy.detect.target import Target, Targets
from irepdeploy.errors import InputError, counted
from irepdeploy.files import read_bytes
from irepdeploy.limits import JOURNAL
from irepdeploy.parsing.json_text import JsonError, parse_json

__all__ = ["CocoAnnotations", "check_files", "check_size", "read_coco"]


@dataclass
class _Image:
    id: int
    file_name: str
    width: int
    height: int


@dataclass
class _Category:
    id: int
    name: str


@dataclass
class _Annotation:
    """One object: `bbox` is left, top, width and height; `area` is the area of its mask, which is not read itself."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: bool = False


@dataclass
class _File:
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class CocoAnnotations:
    """The annotations in a file.

    Args:
        path: File of the annotations.
        classes: Names of the categories in order of their ids; their positions are the labels.
        category_ids: Ids of the categories, which may have gaps.
        files: File name of each image.
        targets: Objects of each image in pixels of the stored image; boxes are float64.
    """

    path: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: tuple[str, ...]
    targets: Targets

    def __len__(self) -> int:
        return len(self.files)

    def chosen(self, places: Sequence[int]) -> CocoAnnotations:
        """Return the annotations of some images, given by their indices in the file."""
        files = tuple(self.files[place] for place in places)
        targets = Targets(self.targets[place] for place in places)
        return CocoAnnotations(self.path, self.classes, self.category_ids, files, targets)

    def trainable(self, least_side: int) -> CocoAnnotations:
        """Return the annotations that MMDetection trains on.

        This removes boxes without an area, with a side below one pixel, or outside the image, and images with a side
        below `least_side` or with no object other than crowds.

        Raises:
            InputError: No image remains.
        """
        cleaned = [_cleaned(target) for target in self.targets]
        places = [
            place
            for place, target in enumerate(cleaned)
            if min(target.size) >= least_side and bool((~target.crowd).any())
        ]
        if not places:
            raise InputError("no image with an object to train on", where=self.path)
        files = tuple(self.files[place] for place in places)
        targets = Targets(cleaned[place] for place in places)
        return CocoAnnotations(self.path, self.classes, self.category_ids, files, targets)


def read_coco(path: str | os.PathLike[str]) -> CocoAnnotations:
    """Read a file of annotations.

    Everything that pycocotools counts is kept: images without objects, crowds, and boxes of width 0 or outside the
    image.

    Raises:
        InputError: The file is not in this format, an id occurs twice, or an annotation refers to an image or a
            category that the file does not contain.
    """
    # Imported here because the suites read data without pydantic.
    from irepdeploy.parsing.validation import validated

    path = Path(path)
    try:
        parsed = parse_json(read_bytes(path, "file of annotations", JOURNAL))
    except JsonError as error:
        raise InputError(str(error), where=path) from None
    hint = "expected images, annotations and categories, as in COCO's instances_val2017.json"
    found = validated(_File, parsed, "annotations of COCO", where=path, hint=hint)
    categories = sorted(found.categories, key=lambda category: category.id)
    labels = {category.id: label for label, category in enumerate(categories)}
    objects: dict[int, list[_Annotation]] = {image.id: [] for image in found.images}
    for what, due, known in (("image", len(found.images), objects), ("category", len(categories), labels)):
        if not due:
            raise InputError(f"no {what}", where=path, hint=hint)
        if len(known) < due:
            raise InputError(f"an id of an {what} occurs twice" if what == "image" else "a category id occurs twice",
                             where=path)  # fmt: skip
    for place, annotation in enumerate(found.annotations):
        for what, number, ids in (
            ("image", annotation.image_id, objects), ("category", annotation.category_id, labels),
        ):  # fmt: skip
            if number not in ids:
                raise InputError(f"annotation {place} refers to {what} {number}, which is not in the file", where=path)
        objects[annotation.image_id].append(annotation)
    return CocoAnnotations(
        path,
        tuple(category.name for category in categories),
        tuple(category.id for category in categories),
        tuple(image.file_name for image in found.images),
        Targets(_target(image, objects[image.id], labels) for image in found.images),
    )


def check_size(width: int, height: int, target: Target, path: Path) -> None:
    """Raise InputError if the size of an image differs from its annotations."""
    if (height, width) != target.size:
        sizes = (width, height, *target.size[::-1])
        raise InputError("an image of {}x{}, annotated as {}x{}".format(*sizes), where=path)


def check_files(folder: Path, annotations: CocoAnnotations) -> None:
    """Raise InputError if any annotated image file is missing in the folder."""
    if not folder.is_dir():
        raise InputError("no such folder of images", where=folder)
    try:
        here = set(os.listdir(folder))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=folder) from error
    absent = [name for name in annotations.files if name not in here and not (folder / name).is_file()]
    if absent:
        more = f"{counted(len(absent), 'image')} of {len(annotations)} missing"
        raise InputError(f"no such image ({more})", where=folder / absent[0], hint=f"{annotations.path} lists it")


def _target(image: _Image, objects: Sequence[_Annotation], labels: dict[int, int]) -> Target:
    sides = torch.tensor([each.bbox for each in objects], dtype=torch.float64).view(-1, 4)
    areas = [each.bbox[2] * each.bbox[3] if each.area is None else each.area for each in objects]
    return Target(
        torch.cat([sides[:, :2], sides[:, :2] + sides[:, 2:]], 1),
        torch.tensor([labels[each.category_id] for each in objects], dtype=torch.int64),
        torch.tensor([each.iscrowd for each in objects], dtype=torch.bool),
        image.id,
        (image.height, image.width),
        torch.tensor(areas, dtype=torch.float64),
    )


def _cleaned(target: Target) -> Target:
    height, width = target.size
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    inside = _clipped(target.boxes, width, height)
    areas: Any = target.areas
    good = (sides >= 1).all(1) & (areas > 0) & ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
    return Target(
        target.boxes[good], target.labels[good], target.crowd[good], target.image_id, target.size, areas[good]
    )


def _clipped(boxes: Tensor, width: int, height: int) -> Tensor:
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)
