"""Image classification data sets of the Hugging Face `datasets` library, read from disk; nothing is downloaded."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from irepdeploy.errors import InputError, MissingError, one_line

__all__ = ["HubImages", "Opened", "is_saved_dataset", "read_cached", "read_saved"]

_TEST_NAMES = ("validation", "valid", "val", "test")
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class HubImages:
    """A split of a saved data set: its rows, with encoded images in `column`, and labels (N,) int64."""

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
        """Return the folder, row and (if any) file name of an image, for error messages."""
        path = self.rows[int(index)][self.column]["path"]
        return f"{self.folder}, row {index}" + (f" ({path})" if path else "")


def is_saved_dataset(folder: Path) -> bool:
    """Return whether the folder was written by `DatasetDict.save_to_disk`."""
    return (folder / "dataset_dict.json").is_file()


Opened = tuple[HubImages, HubImages, tuple[str, ...]]


def read_saved(folder: Path, *, image: str | None = None, label: str | None = None) -> Opened:
    """Open a saved `DatasetDict`.

    Args:
        folder: Folder written by `DatasetDict.save_to_disk`.
        image: Column of the images; None for the only image column.
        label: Column of the labels, which are classes, integers from 0, or text; None for the only class column.

    Returns:
        The training images, the test images and the class names. The test images are the first existing split of
        "validation", "valid", "val" and "test".

    Raises:
        InputError: The folder is not such a data set, or a split, column or label is missing.
        MissingError: The package `datasets` is not installed.
    """
    library = _library(folder)
    try:
        splits = library.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"not a data set that `datasets` can read: {one_line(error)}", where=folder) from error
    return _opened(library, splits, folder, image, label)


def read_cached(
    name: str,
    cache: Path | None = None,
    *,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
) -> Opened:
    """Open a data set from the cache of `datasets` by its name on the hub.

    The results and errors are those of `read_saved`.

    Args:
        name: Name on the hub, such as "ylecun/mnist".
        cache: Folder of the cache; None for the library's default.
        config: Name of the configuration, if the cache contains several.
        image: Column of the images; see `read_saved`.
        label: Column of the labels; see `read_saved`.
    """
    # The names become part of a path and of a glob pattern.
    for text in (name, config):
        if text is not None and not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", text):
            raise InputError(f"expected a name such as ylecun/mnist, got {text!r}", where="data.name")
    library = _library(name)
    Cache = importlib.import_module("datasets.packaged_modules.cache.cache").Cache
    try:
        builder = Cache(
            cache_dir=None if cache is None else str(cache),
            dataset_name=name.rpartition("/")[2],
            repo_id=name,
            config_name=config,
            version="auto",
            hash="auto",
        )
        splits = builder.as_dataset()
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(
            f"not in the cache of `datasets`: {one_line(error)}",
            where=name,
            hint=f"python -c \"import datasets; datasets.load_dataset('{name}')\" downloads it",
        ) from error
    return _opened(library, splits, Path(builder.cache_dir), image, label)


def _library(where: object) -> Any:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        hint = "pip install irepdeploy[data]"
        raise MissingError("this data set requires the package datasets", where=where, hint=hint) from error
    # The library's progress bars move the cursor with control codes, which `console` would show as text.
    library.disable_progress_bars()
    return library


def _opened(library: Any, splits: Any, folder: Path, image: str | None, label: str | None) -> Opened:
    found = dict(splits) if isinstance(splits, Mapping) else {}
    test = next((name for name in _TEST_NAMES if name in found), None)
    if "train" not in found or test is None:
        names = ", ".join(map(str, found)) or type(splits).__name__
        raise InputError(f"expected splits train and validation, got {names}", where=folder)
    train = found["train"]
    column = _column(train, image, library.Image, "image", folder)
    target = label or _column(train, None, library.ClassLabel, "label", folder)
    classes: tuple[str, ...] | None = None
    parts = []
    for name in ("train", test):
        where = f"{folder}, split {name}"
        rows = found[name]
        for wanted in (column, target):
            if wanted not in rows.features:
                raise InputError(f"unknown column {wanted!r}: it has {', '.join(rows.features)}", where=where)
        labels, own = _labels(rows, target, classes, library, where)
        if classes is not None and own != classes:
            raise InputError(f"train and {test} have different classes", where=folder)
        classes = own
        if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
            raise InputError("it is empty or has images without a class", where=where)
        encoded = rows.cast_column(column, library.Image(decode=False))
        parts.append(HubImages(folder, encoded, column, labels))
    assert classes is not None
    return parts[0], parts[1], classes


def _column(rows: Any, given: str | None, kind: type, what: str, folder: Path) -> str:
    """Return the given column after checking its type, or the only column of that type."""
    found = [key for key, feature in rows.features.items() if isinstance(feature, kind)]
    if given is None and len(found) == 1:
        return str(found[0])
    if given in found:
        return str(given)
    columns = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in rows.features.items())
    wanted = (
        f"one column of type {kind.__name__}" if given is None else f"{given!r} to be a column of type {kind.__name__}"
    )
    raise InputError(
        f"expected {wanted}, got {columns}", where=folder, hint=f"data.options.{what}=NAME names the column"
    )


def _labels(
    rows: Any, column: str, known: tuple[str, ...] | None, library: Any, where: str
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Return the labels (N,) int64 and the class names; `known` are the class names of the training images."""
    feature = rows.features[column]
    values = rows.with_format("numpy")[column][:]
    if isinstance(feature, library.ClassLabel):
        return np.asarray(values, dtype=np.int64), tuple(feature.names)
    kind = str(getattr(feature, "dtype", ""))
    if kind.startswith(("int", "uint")):
        numbers = np.asarray(values, dtype=np.int64)
        most = int(numbers.max(initial=0)) + 1
        if most > _MOST_CLASSES:
            raise InputError(f"expected labels below {_MOST_CLASSES:,}, got {most - 1:,}", where=where)
        return numbers, known or tuple(map(str, range(most)))
    if kind in ("string", "large_string"):
        names = known or tuple(sorted(set(map(str, values))))
        places = {name: place for place, name in enumerate(names)}
        return np.array([places.get(str(value), -1) for value in values], dtype=np.int64), names
    raise InputError(f"expected labels in column {column!r}, got {kind or type(feature).__name__}", where=where)
