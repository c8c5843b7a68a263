"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32x32 pixels, read from the published python or binary archive."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.archive import Archive, Published, find_archive
from irepdeploy.data.array_pickle import read_array_pickle
from irepdeploy.data.dataset import Dataset, DatasetFacts, Split
from irepdeploy.data.options import existing_folder, switch, whole
from irepdeploy.data.partition import cut_validation
from irepdeploy.data.pixels import Pixels
from irepdeploy.errors import InputError

__all__ = ["CIFAR10", "cifar10"]

CIFAR10 = DatasetFacts(
    "cifar10",
    (3, 32, 32),
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    # Mean and standard deviation of the 50,000 training images.
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
)
_PIXELS = 3 * 32 * 32

PYTHON = Published(
    "cifar-10-python.tar.gz",
    170498071,
    "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py",
    {
        "data_batch_1": (31035704, "c99cafc152244af753f735de768cd75f"),
        "data_batch_2": (31035320, "d4bba439e000b95fd0a9bffe97cbabec"),
        "data_batch_3": (31035999, "54ebc095f3ab1f0389bbae665268c751"),
        "data_batch_4": (31035696, "634d18415352ddfa80567beed471001a"),
        "data_batch_5": (31035623, "482c414d41f54cd18b22e5b47cb7c3cb"),
        "test_batch": (31035526, "40351d587109b95175f43aff81a1287e"),
        "batches.meta": (158, "5ff9c542aee3614f3951f8cda6e48888"),
    },
)
BINARY = Published(
    "cifar-10-binary.tar.gz",
    170052171,
    "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-batches-bin",
    {
        "data_batch_1.bin": (30730000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        "data_batch_2.bin": (30730000, "5ea93a67294ea407fff1d09f752e9692"),
        "data_batch_3.bin": (30730000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        "data_batch_4.bin": (30730000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        "data_batch_5.bin": (30730000, "53f37980c15c3d472c316c40844f3f0d"),
        "test_batch.bin": (30730000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
        "batches.meta.txt": None,
    },
)


def cifar10(
    *, root: str | os.PathLike[str], train: int | None = None, val: int = 5000, split_seed: int = 0, verify: bool = True
) -> Dataset:
    """Load CIFAR-10 into memory as bytes (184 MB).

    Args:
        root: Folder that contains the archive or its extracted folder. Nothing is extracted or written.
        train: Number of training images; None for all images outside the search-validation set.
        val: Number of search-validation images, taken from the training set in proportion to the classes.
        split_seed: Seed of this split. The split does not depend on the archive format.
        verify: Require the published files; False accepts other files in the same format.

    Raises:
        InputError: The files are missing, damaged or not the published ones, or the split is impossible.
    """
    train = None if train is None else whole("train", train, 2)
    val, split_seed = whole("val", val, 1), whole("split_seed", split_seed, 0, 2**60)
    archive = find_archive(existing_folder(root), (PYTHON, BINARY), verify=switch("verify", verify))
    python = archive.published is PYTHON
    *batches, test_batch, meta = archive.published.files
    read = _read_python if python else _read_binary
    content = archive.read([*batches, meta])
    classes = _names(content.pop(meta), archive.path / meta, python)
    pixels, labels = _joined(content, read, archive, len(classes))
    others, held_out = cut_validation(labels, val, train, split_seed)

    def split(pixels: Tensor, labels: Tensor) -> Split:
        return Split(Pixels(pixels.contiguous(memory_format=torch.channels_last), CIFAR10.mean, CIFAR10.std), labels)

    return Dataset(
        **{**vars(CIFAR10), "classes": classes},
        train=split(pixels[others], labels[others]),
        val=split(pixels[held_out], labels[held_out]),
        load_test=lambda: split(*_joined(archive.read([test_batch]), read, archive, len(classes))),
    )


Read = Callable[[bytes, object], tuple[Any, Any]]


def _joined(content: dict[str, bytes], read: Read, archive: Archive, classes: int) -> tuple[Tensor, Tensor]:
    """Return pixels (N, 3, 32, 32) uint8 and labels (N,) of all batches, in the order of their names."""
    images, labels = [], []
    for name in sorted(content):
        where = archive.path / name
        rows, batch_labels = read(content.pop(name), where)
        whole_rows = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] == _PIXELS and len(rows) > 0
        if not whole_rows or len(rows) != len(batch_labels):
            raise InputError(f"expected rows of {_PIXELS} pixels with a label each", where=where)
        if not all(type(label) is int and 0 <= label < classes for label in batch_labels):
            raise InputError(f"expected labels from 0 to {classes - 1}", where=where)
        images.append(torch.from_numpy(rows.reshape(-1, 3, 32, 32).copy()))
        labels.append(torch.tensor(batch_labels))
    return torch.cat(images), torch.cat(labels)


def _read_python(content: bytes, where: object) -> tuple[Any, Any]:
    batch = read_array_pickle(content, where)
    labels = batch.get("labels")
    return batch.get("data"), labels if isinstance(labels, list) else []


def _read_binary(content: bytes, where: object) -> tuple[Any, Any]:
    if len(content) % (1 + _PIXELS):
        raise InputError(f"expected a multiple of {1 + _PIXELS} bytes, got {len(content):,}", where=where)
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:], rows[:, 0].tolist()


def _names(content: bytes, where: object, python: bool) -> tuple[str, ...]:
    found: Any = read_array_pickle(content, where).get("label_names") if python else content.split()
    found = found if isinstance(found, list) else []
    names = tuple(name.decode("latin-1") if isinstance(name, bytes) else str(name) for name in found)
    if len(names) < 2:
        raise InputError("no class names", where=where)
    return names
