"""Image files in class folders: train/CLASS/*.JPEG and val/CLASS/*.JPEG as in ImageNet, optionally with test/CLASS/."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irepdeploy.data.partition import stratified
from irepdeploy.errors import InputError

__all__ = [
    "ClassFolders",
    "has_class_folders",
    "has_test_folders",
    "read_folders",
    "split_folders",
    "train_folder",
]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """The images in a folder of class folders.

    Args:
        folder: Folder of the class folders.
        paths: Paths (N,) relative to the folder, as bytes. They take a tenth of the memory of Path objects, and are
            shared with worker processes instead of copied.
        labels: Class indices (N,) int64, in alphabetical order of the class names.
    """

    folder: Path
    paths: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, indices: Any) -> ClassFolders:
        """Return the images with these indices."""
        return ClassFolders(self.folder, self.paths[indices], self.labels[indices])

    def open(self, index: int) -> str:
        """Return the path of an image."""
        return os.fspath(self.folder / os.fsdecode(self.paths[index]))

    def name(self, index: int) -> str:
        """Return the path of an image, for error messages."""
        return self.open(index)


def has_test_folders(root: Path) -> bool:
    """Return whether there is a folder test/ with class folders; the one of ImageNet contains unlabelled images."""
    folder = root / "test"
    try:
        return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=folder) from error


def has_class_folders(root: Path) -> bool:
    """Return whether there are images in folders of `root`, whose names are the classes."""
    try:
        folders = [entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        return any(file.name.lower().endswith(_SUFFIXES) for folder in folders for file in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=error.filename or root) from error


def train_folder(root: Path) -> Path:
    """Return train/, or `root` if there is none or it is the folder of a class, as beside bus/ and car/."""
    folder = root / "train"
    if not folder.is_dir():
        return root
    try:
        others = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=root) from error
    others.discard("train")
    is_class = bool(others) and others.isdisjoint({"val", "test"}) and not has_class_folders(folder)
    return root if is_class else folder


def read_folders(folder: Path, classes: Sequence[str] | None = None) -> tuple[ClassFolders, tuple[str, ...]]:
    """List the images of a folder that contains one folder per class. Other files are ignored.

    Args:
        folder: Folder of the class folders.
        classes: Class names that the folder must have; None for any.

    Returns:
        The images and the class names.

    Raises:
        InputError: The folder is missing or unreadable, a class is missing or unexpected, or has no images.
    """
    if not folder.is_dir():
        raise InputError(
            "no such folder", where=folder, hint="data.root=DIR must contain train/ and val/ with class folders"
        )
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        if not found:
            raise InputError(
                "contains no class folders", where=folder, hint="put the images of each class into a folder"
            )
        expected = list(found if classes is None else classes)
        wrong = sorted(set(found) ^ set(expected))
        if wrong:
            what = "class folder is not in the training set" if wrong[0] in found else "class folder missing"
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise InputError(f"{what}{more}", where=folder / wrong[0])
        paths, labels = [], []
        for label, name in enumerate(expected):
            files = [file for file in os.listdir(folder / name) if file.lower().endswith(_SUFFIXES)]
            if not files:
                raise InputError("contains no images", where=folder / name)
            paths += [os.fsencode(os.path.join(name, file)) for file in sorted(files)]
            labels += [label] * len(files)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=error.filename or folder) from error
    return ClassFolders(folder, np.array(paths), np.array(labels, dtype=np.int64)), tuple(expected)


def split_folders(root: Path, test: Any) -> tuple[ClassFolders, ClassFolders, tuple[str, ...]]:
    """Split a test set off class folders, and return the other images, the test set and the classes.

    The images are chosen in proportion to the classes and by the hash of their names: always the same ones, and if
    images are added or removed, the others mostly stay where they are, so that a network that continues with them is
    not tested on images of its training.

    Args:
        root: Folder that contains train/CLASS/ or CLASS/.
        test: Share of the images, between 0 and 1, or their number.

    Raises:
        InputError: There is a test set, or `test` leaves a class without other images.
    """
    where = "data option test"
    folder = train_folder(root)
    own = "test" if has_test_folders(root) else "val" if folder != root and (root / "val").is_dir() else None
    if own is not None:
        raise InputError(f"{own}/ is the test set", where=where, hint="omit it")
    pool, classes = read_folders(folder)
    if isinstance(test, float) and 0 < test < 1:
        count = max(1, round(test * len(pool)))
    elif type(test) is int and 0 < test < len(pool):
        count = test
    else:
        what = f"expected a share such as 0.2, or a number below {len(pool):,}, the number of images, got {test!r}"
        raise InputError(what, where=where)
    hashes = [hashlib.sha256(path.replace(b"\\", b"/")).digest() for path in pool.paths.tolist()]
    order = torch.tensor(sorted(range(len(pool)), key=hashes.__getitem__))
    chosen = stratified(torch.from_numpy(pool.labels), count, order).numpy()
    left = np.bincount(pool.labels[~chosen], minlength=len(classes))
    if not left.all():
        name = classes[int(left.argmin())]
        raise InputError(f"no image of class {name} is left to train on", where=where, hint="give a smaller share")
    return pool.part(~chosen), pool.part(chosen), classes
