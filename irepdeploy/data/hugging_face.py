"""Image classification data sets saved to disk by the Hugging Face `datasets` library."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from irepdeploy.errors import InputError, MissingError, one_line

__all__ = ["HubImages", "is_saved_dataset", "read_saved"]

_TEST_NAMES = ("validation", "valid", "val", "test")


@dataclass(frozen=True)
class HubImages:
    """A split of a saved data set: its rows, whose image `column` is not decoded, and (N,) int64 labels."""

    folder: Path
    rows: Any
    column: str
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> IO[bytes] | str:
        """Return the encoded image, or its path if the data set refers to files."""
        image = self.rows[int(index)][self.column]
        return io.BytesIO(image["bytes"]) if image["bytes"] is not None else str(image["path"])

    def name(self, index: int) -> str:
        """Return the folder, the row and the file name, if any, for error messages."""
        path = self.rows[int(index)][self.column]["path"]
        return f"{self.folder}, row {index}" + (f" ({path})" if path else "")


def is_saved_dataset(folder: Path) -> bool:
    """Return whether the folder was written by `DatasetDict.save_to_disk`."""
    return (folder / "dataset_dict.json").is_file()


def read_saved(folder: Path) -> tuple[HubImages, HubImages, tuple[str, ...]]:
    """Open a saved `DatasetDict`; return the training images, the test images and the class names.

    The test images are the first of the splits "validation", "valid", "val" and "test" that exists.
    """
    try:
        import datasets
    except ImportError as error:
        hint = "pip install irepdeploy[data]"
        raise MissingError("this data set requires the package datasets", where=folder, hint=hint) from error
    try:
        splits = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"not a data set that `datasets` can read: {one_line(error)}", where=folder) from error
    test = next((name for name in _TEST_NAMES if name in splits), None)
    if "train" not in splits or test is None:
        found = ", ".join(splits)
        raise InputError(f"expected splits train and validation, got {found}", where=folder)
    parts, names = [], []
    for name in ("train", test):
        rows = splits[name]
        images = [key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        labels = [key for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
        if len(images) != 1 or len(labels) != 1:
            raise InputError(
                f"expected one Image and one ClassLabel in split {name}, got {len(images)} and {len(labels)}",
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
        raise InputError(f"train and {test} have different classes", where=folder)
    return parts[0], parts[1], names[0]
