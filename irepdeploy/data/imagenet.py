"""ImageNet (Russakovsky et al. 2015), and other images in class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irepdeploy.data.dataset import Dataset, DatasetFacts, Split
from irepdeploy.data.folders import (
    ClassFolders,
    has_class_folders,
    has_test_folders,
    read_folders,
    split_folders,
    train_folder,
)
from irepdeploy.data.hugging_face import HubImages, Opened, is_saved_dataset, read_cached, read_saved
from irepdeploy.data.image_files import ImageFiles
from irepdeploy.data.image_sizes import own_size
from irepdeploy.data.options import existing_folder, switch, whole
from irepdeploy.data.partition import cut_validation
from irepdeploy.errors import InputError, few

__all__ = ["IMAGENET", "folders", "hugging_face", "imagenet"]

IMAGENET = DatasetFacts("imagenet", (3, 224, 224), (), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLASSES, _TRAIN, _TEST = 1000, 1_281_167, 50_000
_MOST_WORKERS = 16

Source = ClassFolders | HubImages


def imagenet(
    *,
    root: str | os.PathLike[str],
    train: int | None = None,
    val: int = 10_000,
    size: int = 224,
    workers: int | None = None,
    split_seed: int = 0,
    verify: bool = True,
) -> Dataset:
    """Load ImageNet-1K, with its public validation set as the test set.

    Args:
        root: Folder with train/ and val/, each with one folder per class; or the same data saved to disk by the Hugging
            Face `datasets` library.
        train: Number of training images; None for all images outside the search-validation set.
        val: Number of search-validation images, taken from the training set in proportion to the classes.
        size: Side of the network's input in pixels.
        workers: Number of decoding processes; None for one per processor, at most 16. The result does not depend on it.
        split_seed: Seed of the search-validation split.
        verify: Require 1,000 classes with 1,281,167 training and 50,000 test images, and folders named by WordNet
            numbers; False accepts other class folders.

    Raises:
        InputError: The data are missing, incomplete or damaged, or the split is impossible.
    """
    return _load("imagenet", root, train, val, size, workers, split_seed, verify=switch("verify", verify))


def folders(
    *,
    root: str | os.PathLike[str],
    train: int | None = None,
    val: int | None = None,
    test: float | int | None = None,
    size: int | None = None,
    workers: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Load images from class folders or a data set saved by `datasets`; see `imagenet` for the options.

    If both val/ and test/ contain class folders, the images in val/ are the search-validation set and `val` must be
    None. If there is only one of them, it is the test set, and `val` images of train/ become the search-validation set.
    If there is neither, `test` is the share (0.2) or the number of the images in train/CLASS/, or in CLASS/ without a
    train/, that become the test set: always the same images, in proportion to the classes.
    Without a `size`, images are not resized and must all have the same size.
    """
    return _load("folders", root, train, val, size, workers, split_seed, verify=False, own_test=True, cut=test)


def hugging_face(
    source: str,
    *,
    root: str | os.PathLike[str] | None = None,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    train: int | None = None,
    val: int,
    size: int | None = None,
    workers: int | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Load a data set of the Hugging Face `datasets` library from disk; in recipes `data.name: hf:SOURCE`.

    Nothing is downloaded.

    Args:
        source: Folder written by `save_to_disk`, or the name on the hub, such as ylecun/mnist, of a cached data set.
        root: Folder of the cache; None for the library's default.
        config: Name of the configuration, if the cache contains several.
        image: Column of the images; None for the only image column.
        label: Column of the labels, which are classes, integers from 0, or text; None for the only class column.
        train: Number of training images, as in `imagenet`.
        val: Number of search-validation images.
        size: Side of the network's input in pixels; None keeps the images' own size.
        workers: Number of decoding processes, as in `imagenet`.
        split_seed: Seed of the search-validation split.

    Raises:
        InputError: The data set is not on disk or is unsuitable, or the split is impossible.
        MissingError: The package `datasets` is not installed.
    """
    columns: dict[str, Any] = {"image": image, "label": label}
    for key, value in {"config": config, **columns}.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"expected text, got {value!r}", where=f"data option {key}")
    # Check the sizes first, because opening may take a while.
    whole("val", val, 1)
    folder = Path(source).expanduser()
    if folder.exists() and is_saved_dataset(folder):
        opened = read_saved(folder, **columns)
    else:
        opened = read_cached(source, None if root is None else existing_folder(root), config=config, **columns)
    name = f"hf:{source}"
    return _load(name, root, train, val, size, workers, split_seed, verify=False, opened=opened)


def _load(
    name: str,
    root: Any,
    train: int | None,
    val: int | None,
    size: int | None,
    workers: int | None,
    split_seed: int,
    *,
    verify: bool,
    own_test: bool = False,
    cut: float | int | None = None,
    opened: Opened | None = None,
) -> Dataset:
    train = None if train is None else whole("train", train, 2)
    val, size = None if val is None else whole("val", val, 1), None if size is None else whole("size", size, 8, 4096)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(processors, _MOST_WORKERS) if workers is None else whole("workers", workers, 0, 1024)
    split_seed = whole("split_seed", split_seed, 0, 2**60)
    folder = existing_folder(root) if opened is None else opened[0].folder
    pool: Source
    test: Source
    held: Source | None = None
    note = ""
    if opened is not None:
        pool, test, classes = opened
    elif is_saved_dataset(folder):
        pool, test, classes = read_saved(folder)
        if cut is not None:
            raise InputError("a saved data set has a test set of its own", where="data option test", hint="omit it")
    elif cut is not None:
        pool, test, classes = split_folders(folder, cut)
        note = (
            f"the test set is {len(test):,} of the {len(pool) + len(test):,} images, chosen class by class and always "
            f"the same (data.options.test={cut})"
        )
        absent = [name for label, name in enumerate(classes) if label not in test.labels]
        note += f"; it has no image of {few(absent)}" if absent else ""
    elif own_test and train_folder(folder) == folder and has_class_folders(folder):
        hint = "data.options.test=0.2 splits a test set off the class folders in data.root; or move them into train/"
        raise InputError("no train/ with class folders", where=folder, hint=hint)
    else:
        pool, classes = read_folders(folder / "train")
        own_test = own_test and has_test_folders(folder)
        test, _ = read_folders(folder / ("test" if own_test else "val"), classes)
        if own_test and (folder / "val").exists():
            held, _ = read_folders(folder / "val", classes)
    if (val is None) == (held is None):
        what = "expected a number of images of train/" if held is None else "val/ holds these images, and test/ others"
        hint = "give data.options.val" if held is None else "omit it"
        raise InputError(what, where="data option val", hint=hint)
    if verify:
        _check(folder, classes, len(pool), len(test), named=isinstance(pool, ClassFolders))
    parts = (pool, test) if held is None else (pool, held, test)
    sides = own_size(folder, parts) if size is None else (size, size)
    others, held_out = cut_validation(torch.from_numpy(pool.labels), val or 0, train, split_seed)

    def split(source: Source, indices: np.ndarray[Any, Any]) -> Split:
        images = ImageFiles(source, indices, size or sides, IMAGENET.mean, IMAGENET.std, workers)
        return Split(images, torch.from_numpy(source.labels[indices]))

    return Dataset(
        **vars(replace(IMAGENET, name=name, input_shape=(3, *sides), classes=classes)),
        train=split(pool, others.numpy()),
        val=split(pool, held_out.numpy()) if held is None else split(held, np.arange(len(held))),
        load_test=lambda: split(test, np.arange(len(test))),
        note=note,
    )


def _check(folder: Any, classes: Sequence[str], train: int, test: int, *, named: bool) -> None:
    counts = (len(classes), train, test)
    if counts != (_CLASSES, _TRAIN, _TEST):
        raise InputError(
            f"incomplete ImageNet-1K: {counts[0]:,} classes of {_CLASSES:,}, {train:,} training images of "
            f"{_TRAIN:,}, {test:,} test images of {_TEST:,}",
            where=folder,
            hint="data.verify=false accepts your own class folders",
        )
    odd = next((name for name in classes if named and not re.fullmatch(r"n\d{8}", name)), None)
    if odd is not None:
        raise InputError(
            "expected a class folder named by a WordNet number such as n01440764",
            where=f"{folder}/train/{odd}",
            hint="data.verify=false accepts your own class folders",
        )
