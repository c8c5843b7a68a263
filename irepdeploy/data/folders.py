"""Image files in class folders: train/CLASS/*.JPEG and val/CLASS/*.JPEG, the layout of ImageNet, or test/CLASS/ too."""

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
        paths: (N,) paths relative to the folder, as bytes: a tenth of the memory of a million Path objects, and shared
            with worker processes instead of copied.
        labels: (N,) int64 class indices, in alphabetical order of the class names.
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
    """Return whether there is a folder test/ of class folders; that of ImageNet holds images without labels."""
    folder = root / "test"
    try:
        return folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=folder) from error


def read_folders(folder: Path, classes: Sequence[str] | None = None) -> tuple[ClassFolders, tuple[str, ...]]:
    """List the images of a folder that contains one folder per class; other files are ignored.

    Return the images and the class names, which must be `classes` if given.
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
