"""Registry of data sets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from irepdeploy.data.cifar10 import CIFAR10, cifar10
from irepdeploy.data.coco import COCO, coco
from irepdeploy.data.dataset import Dataset, DatasetFacts, ObjectDataset
from irepdeploy.data.digits import DIGITS, digits
from irepdeploy.data.fashion_mnist import FASHION_MNIST, fashion_mnist
from irepdeploy.data.imagenet import IMAGENET, folders, hugging_face, imagenet
from irepdeploy.data.shapes import SHAPES, shapes
from irepdeploy.data.synthetic import SYNTHETIC, synthetic
from irepdeploy.errors import InputError, choices

__all__ = [
    "DATASETS",
    "OBJECTS",
    "dataset_facts",
    "embedded_dataset",
    "is_cropped",
    "known_dataset",
    "load_dataset",
    "load_objects",
]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "imagenet": imagenet,
    "folders": folders,
    "synthetic": synthetic,
}
# Data sets for the task "detection".
OBJECTS: dict[str, Callable[..., ObjectDataset]] = {"shapes": shapes, "coco": coco}
_HUB = "hf:"
_FACTS = {
    facts.name: facts
    for facts in (
        *(DIGITS, FASHION_MNIST, CIFAR10, IMAGENET, replace(IMAGENET, name="folders"), SYNTHETIC),
        *(SHAPES, COCO),
    )
}


def load_dataset(name: str, /, **options: Any) -> Dataset:
    """Load a classification data set by name.

    Args:
        name: Name in `DATASETS`, or "hf:NAME" for `hugging_face`.
        options: Arguments of the data set's function.

    Raises:
        InputError: The name or an option is unknown, or the data set cannot be loaded.
        MissingError: A package or the data set is not installed.
    """
    function = _function(name)
    _check_options(function, name, options)
    return function(**options)


def load_objects(name: str, /, **options: Any) -> ObjectDataset:
    """Load a detection data set by name.

    Args:
        name: Name in `OBJECTS`.
        options: Arguments of the data set's function.

    Raises:
        InputError: The name or an option is unknown, or the data set cannot be loaded.
        MissingError: A package or the data set is not installed.
    """
    if name not in OBJECTS:
        where = "data.name"
        if name in DATASETS or name.startswith(_HUB):
            raise InputError(f"{name} has image labels and no boxes", where=where, hint="task: classification")
        raise InputError(f"no data set of objects named {name!r}", where=where, hint=choices(name, OBJECTS))
    _check_options(OBJECTS[name], name, options)
    return OBJECTS[name](**options)


def _check_options(function: Callable[..., Any], name: str, options: dict[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        known = [
            f"data.options.{key}" for key in inspect.signature(function).parameters if key not in ("root", "verify")
        ]
        absent = "missing" in str(error) and "'root'" in str(error)
        hint = "data.root=DIR is the folder that contains the data" if absent else f"its options are {', '.join(known)}"
        raise InputError(str(error), where=f"data set {name}", hint=hint) from None


def embedded_dataset(name: str) -> Dataset | None:
    """Load a classification data set with its default options; return None if it needs files or has objects."""
    if name in OBJECTS:
        return None
    function = _function(name)
    return None if "root" in inspect.signature(function).parameters else function()


def dataset_facts(name: str | None) -> DatasetFacts | None:
    """Return the properties of a data set with its default options; None if there is no such data set."""
    if name is not None and _is_on_hub(name):
        return replace(IMAGENET, name=name)
    return _FACTS.get(name or "")


def known_dataset(name: str | None) -> str | None:
    """Return the name of a classification data set as the metadata of a file give it, or None if it is not known."""
    return name if name in DATASETS or _is_on_hub(name) else None


def is_cropped(name: str | None, *, own_size: bool = False) -> bool:
    """Return whether the images of a data set are cropped to their centre for evaluation.

    Args:
        name: Name of the data set.
        own_size: Whether an image has the size of the network's input. Class folders and Hugging Face data are then
            taken as they are, unless their option `size` is set, which is not known here.
    """
    return name == "imagenet" or (not own_size and (name == "folders" or _is_on_hub(name)))


def _is_on_hub(name: str | None) -> bool:
    return name is not None and name.startswith(_HUB)


def _function(name: str) -> Callable[..., Dataset]:
    if name.startswith(_HUB):
        return functools.partial(hugging_face, name.removeprefix(_HUB))
    if name in OBJECTS:
        raise InputError(f"{name} has boxes of objects", where="data.name", hint="task: detection")
    if name not in DATASETS:
        hint = choices(name, DATASETS)
        more = f"{hint}, or {_HUB}NAME of the Hugging Face `datasets`"
        raise InputError(f"no data set named {name!r}", hint=more if hint.startswith("one") else hint)
    return DATASETS[name]
