"""Detect objects in many image files, and score the detections against annotations."""

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
    """The detections in several image files.

    Attributes:
        found: Detections (without the image) by file, for each image that could be read.
        times: Times of each image that could be read.
        broken: Reason why a file was skipped, by file.
        pictures: Paths of the annotated images.
        precision: Average precision, if there are annotations; otherwise None.
    """

    found: dict[Path, Detections] = field(default_factory=dict)
    times: list[Times] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    precision: AveragePrecision | None = None


def image_files(given: Sequence[Path]) -> list[Path]:
    """Return the given image files and the images in the given folders, sorted by name.

    Raises:
        InputError: A file does not exist, or a folder contains no images.
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
    """Run an active detector on image files, and write annotated images and results in COCO format into `out`.

    Damaged files are skipped and listed in `FolderDetections.broken`.

    Args:
        opened: Detector, inside its ``with`` block.
        files: Image files; with annotations, the annotated files in the same order.
        out: Existing folder; None to write nothing.
        score: Minimum score of the detections that are drawn. The results contain all detections.
        annotations: Annotations of the files, to score the detections.
        report: Function that receives the name of each finished file.
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
    """Return the annotated files in a folder.

    Raises:
        InputError: A file is missing, or there is no annotated object.
    """
    if all(bool(target.crowd.all()) for target in annotations.targets):
        raise InputError("no annotated object: average precision is undefined", where=annotations.path)
    check_files(folder, annotations)
    return [folder / name for name in annotations.files]


def labels_by_name(names: Sequence[str], annotations: CocoAnnotations, label: str) -> Tensor:
    """Return the annotations' label of each class of a detector, matched by name.

    Raises:
        InputError: The detector has no class names, or a class is not in the annotations.
    """
    known = annotations.classes
    if not names:
        raise InputError("the detector has no class names", where=label)
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
