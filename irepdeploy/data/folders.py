"""Images in class folders, as ImageNet is published: train/CLASS/*.JPEG and val/CLASS/*.JPEG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import InputError

__all__ = ["ClassFolders", "read_folders"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """The images below one folder.

    Args:
        paths: (N,) names relative to the folder, as bytes: a tenth of the memory of a million Path objects, and not
            copied into each worker process.
        labels: (N,) int64, the place of the class among all of them in alphabetical order.
    """

    folder: Path
    paths: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, index: int) -> str:
        """Path of an image."""
        return os.fspath(self.folder / os.fsdecode(self.paths[index]))

    def name(self, index: int) -> str:
        """Path of an image."""
        return self.open(index)


def read_folders(folder: Path, classes: Sequence[str] | None = None) -> tuple[ClassFolders, tuple[str, ...]]:
    """The images of a folder with one folder for each class, and the names of the classes.

    Args:
        classes: which there must be; None: those that there are. Files that are no images by their names are left out.

    Raises:
        InputError: no such folder, no class folders in it, others than `classes`, or one without images.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, hint="data.root=DIR holds train/ and val/ with class folders")
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        if not found:
            raise InputError("no class folders in it", where=folder, hint="put the images of each class into its own")
        expected = list(found if classes is None else classes)
        wrong = sorted(set(found) ^ set(expected))
        if wrong:
            what = "no class folder of the training set" if wrong[0] in found else "class folder missing"
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise InputError(f"{what}{more}", where=folder / wrong[0])
        paths, labels = [], []
        for label, name in enumerate(expected):
            files = [file for file in os.listdir(folder / name) if file.lower().endswith(_SUFFIXES)]
            if not files:
                raise InputError("no images in it", where=folder / name)
            paths += [os.fsencode(os.path.join(name, file)) for file in sorted(files)]
            labels += [label] * len(files)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=error.filename or folder) from error
    return ClassFolders(folder, np.array(paths), np.array(labels, dtype=np.int64)), tuple(expected)
