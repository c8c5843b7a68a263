"""Image files in class folders: train/CLASS/*.JPEG and val/CLASS/*.JPEG as in ImageNet, optionally with test/CLASS/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import InputError

__all__ = ["ClassFolders", "has_test_folders", "read_folders"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """The images in a folder of class folders.

    Args:
        paths: Paths (N,) relative to the folder, as bytes. They take a tenth of the memory of Path objects, and are
            shared with worker processes instead of copied.
        labels: Class indices (N,) int64, in alphabetical order of the class names.
    """

    folder: Path
    paths: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.paths)

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
