"""Detect objects in many image files, and score what was found against annotations."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irepdeploy.data.coco_annotations import CocoAnnotations, check_files, check_size
from irepdeploy.detect.coco_metric import AveragePrecision, average_precision
from irepdeploy.detect.detections import Detections
from irepdeploy.errors import InputError, counted
from irepdeploy.files import write_bytes, write_json
from irepdeploy.inference.detect import Times, detections_of, read_picture
from irepdeploy.inference.opened import OpenedDetector

__all__ = ["DETECTIONS", "FolderDetections", "annotated_files", "detect_files", "image_files", "labels_by_name"]

DETECTIONS = "detections.json"
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass
class FolderDetections:
    """What was found in image files.

    Attributes:
        found: Detections of each image that could be read, without the image, by file.
        times: How long each took.
        broken: Why a file was skipped.
        pictures: Where the pictures are.
        precision: Average precision, with annotations.
    """

    found: dict[Path, Detections] = field(default_factory=dict)
    times: list[Times] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    precision: AveragePrecision | None = None


def image_files(given: Sequence[Path]) -> list[Path]:
    """Return the images among files and in folders, by name.

    Raises:
        InputError: There is none.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in _SUFFIXES)
            if not inside:
                raise InputError("no image in this folder", where=path)
            found += inside
        elif not path.exists():
            raise InputError("no such image", where=path, hint="check the path")
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def detect_files(
    opened: OpenedDetector,
    files: Sequence[Path],
    out: Path | None,
    *,
    score: float,
    annotations: CocoAnnotations | None = None,
    report: Callable[[str], None] = lambda name: None,
) -> FolderDetections:
    """Run an active detector on files, and write pictures and the results in COCO's format into `out`.

    A file that is damaged is skipped, and told in `broken`.

    Args:
        opened: The detector.
        files: Image files; with annotations, those of the annotations, in their order.
        out: Existing folder; None writes nothing.
        score: Pictures show detections that score at least so much; the results hold all.
        annotations: Objects of the files, to score the detections.
        report: Called with the name of each file that is done.
    """
    result, entries = FolderDetections(), []
    taken: set[str] = set()
    labels = None if annotations is None else labels_by_name(opened.facts.classes, annotations, opened.label)
    targets: list[Any] = []
    for place, path in enumerate(files):
        try:
            picture = read_picture(path)
        except InputError as error:
            result.broken[path] = error.what
            report(path.name)
            continue
        found, times = detections_of(opened, picture)
        result.times.append(times)
        number = place + 1
        if annotations is not None and labels is not None:
            target = annotations.targets[place]
            check_size(picture.width, picture.height, target, path)
            found = replace(found, labels=labels[found.labels], names=annotations.classes,
                            category_ids=annotations.category_ids)  # fmt: skip
            number = target.image_id
            targets.append(target)
        if out is not None:
            result.pictures.append(_drawn(found.above(score), out, path, taken))
        entries += [{**entry, "file_name": path.name} for entry in found.to_coco(number)]
        result.found[path] = replace(found, image=None)
        report(path.name)
    if annotations is not None and targets:
        result.precision = average_precision(list(result.found.values()), targets)
    if out is not None:
        write_json(out / DETECTIONS, entries)
    return result


def annotated_files(folder: Path, annotations: CocoAnnotations) -> list[Path]:
    """Return the files of the annotations in a folder, all of which must exist."""
    if all(bool(target.crowd.all()) for target in annotations.targets):
        raise InputError("no annotated object: average precision is undefined", where=annotations.path)
    check_files(folder, annotations)
    return [folder / name for name in annotations.files]


def labels_by_name(names: Sequence[str], annotations: CocoAnnotations, label: str) -> Tensor:
    """Return the label in the annotations of each class of a detector, by name."""
    known = annotations.classes
    if not names:
        raise InputError("the detector does not know the names of its classes", where=label)
    absent = [name for name in names if name not in known]
    if absent:
        what = f"{counted(len(absent), 'class', 'classes')} of the detector, such as {absent[0]!r}, are not annotated"
        raise InputError(what, where=annotations.path, hint=f"its categories are {', '.join(known[:10])}")
    return torch.tensor([known.index(name) for name in names])


def _drawn(found: Detections, out: Path, path: Path, taken: set[str]) -> Path:
    name, count = path.stem, 1
    while name in taken:
        count += 1
        name = f"{path.stem}-{count}"
    taken.add(name)
    buffer = io.BytesIO()
    found.draw().save(buffer, "PNG")
    return write_bytes(out / f"{name}.png", buffer.getvalue())
