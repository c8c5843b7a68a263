"""Image classification data sets that the Hugging Face `datasets` library wrote to disk."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from irepdeploy.errors import InputError, MissingError

__all__ = ["HubImages", "is_saved_dataset", "read_saved"]

_TEST_NAMES = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class HubImages:
    """One split of such a data set.

    Args:
        rows: a `datasets.Dataset` whose image column gives encoded bytes.
        column: the image column.
        labels: (N,) int64.
    """

    folder: Path
    rows: Any
    column: str
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> IO[bytes] | str:
        """The encoded image in memory, or its path where the data set refers to files."""
        image = self.rows[int(index)][self.column]
        return io.BytesIO(image["bytes"]) if image["bytes"] is not None else str(image["path"])

    def name(self, index: int) -> str:
        """Folder, row and, where there is one, the file's name."""
        path = self.rows[int(index)][self.column]["path"]
        return f"{self.folder}, row {index}" + (f" ({path})" if path else "")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `DatasetDict.save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file()


def read_saved(folder: Path) -> tuple[HubImages, HubImages, tuple[str, ...]]:
    """Training and test images of a saved `DatasetDict`, and the names of the classes.

    The test images are those of its split "validation", "valid", "val" or "test", in this order.

    Raises:
        InputError: it cannot be read, has no such splits, or is no image classification data set.
        MissingError: `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        hint = "pip install irepdeploy[data]"
        raise MissingError("this data set needs the package datasets", where=folder, hint=hint) from error
    try:
        splits = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"not a data set that `datasets` can read: {error}", where=folder) from error
    test = next((name for name in _TEST_NAMES if name in splits), None)
    if "train" not in splits or test is None:
        found = ", ".join(splits)
        raise InputError(f"splits train and validation are due, not {found}", where=folder)
    parts, names = [], []
    for name in ("train", test):
        rows = splits[name]
        images = [key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        labels = [key for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
        if len(images) != 1 or len(labels) != 1:
            raise InputError(
                f"one Image and one ClassLabel are due in split {name}, not {len(images)} and {len(labels)}",
                where=folder,
            )
        column, label = images[0], labels[0]
        encoded = rows.cast_column(column, datasets.Image(decode=False))
        classes = np.asarray(rows.with_format("numpy")[label][:], dtype=np.int64)
        if not len(classes) or classes.min() < 0:
            raise InputError(f"split {name} is empty or has images without a class", where=folder)
        parts.append(HubImages(folder, encoded, column, classes))
        names.append(tuple(rows.features[label].names))
    if names[0] != names[1]:
        raise InputError(f"train and {test} have other classes", where=folder)
    return parts[0], parts[1], names[0]
