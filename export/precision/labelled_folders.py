"""Class folders as labelled images, on which int8 is calibrated and its accuracy is measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from irepdeploy.errors import choices, counted
from irepdeploy.verify.class_folders import FolderImages
from irepdeploy.verify.inputs import InputGroup
from irepdeploy.verify.samples import Inputs
from irepdeploy.verify.signature import Signature

__all__ = ["Classifier", "LabelledImages", "labelled_folders"]

Array = np.ndarray[Any, Any]

_CALIBRATION, _EVALUATION, _FEWEST = 128, 1000, 8
# Large inputs are limited by their size in memory, as long as one image of the evaluation is less than half a point.
_BYTES, _LEAST = 256 << 20, 268
_NOT_USED = "the class folders are not used as labels"
_ASSUMED = "the class folders are assumed to be in the order of the scores"


@dataclass(frozen=True)
class Classifier:
    """A float32 network that classifies.

    Args:
        classes: Names of the classes in the order of the scores; () if they are unknown.
        scores: Number of scores.
        run: Function that returns the outputs (N, ...) for inputs (N, ...).
    """

    classes: Sequence[str]
    scores: int
    run: Callable[[Inputs], Mapping[str, Array]]


@dataclass(frozen=True)
class LabelledImages:
    """Images for calibration, others for evaluation with their classes (N,), and a note about the labels or ""."""

    calibration: InputGroup
    evaluation: InputGroup
    labels: Array
    note: str


def labelled_folders(
    path: Path, signature: Signature, dataset: str | None, classifier: Classifier, max_drop: float
) -> LabelledImages | str:
    """Divide the images of class folders for calibration and evaluation.

    A folder is a class if it has its name. If the names of the classes are unknown, there must be one folder for each
    score, in the order of numbers or of the alphabet, and the network must predict most of them.

    Args:
        path: Folder of the class folders.
        signature: The only input.
        dataset: Name of the training set, whose normalization the images get.
        classifier: The float32 network.
        max_drop: Loss in percentage points that the evaluation must be able to show.

    Returns:
        The images, or the reason why there are no labels. It is empty if these are not class folders.

    Raises:
        InputError: An image is damaged or does not fit the input.
    """
    spec = signature.inputs[0]
    fit = _BYTES // (math.prod(spec.sample) * np.dtype(spec.dtype).itemsize)
    most = max(_LEAST, min(_CALIBRATION + _EVALUATION, fit))
    images = FolderImages.of(path, most)
    if images is None:
        return ""
    classes = classifier.classes or _in_order(images.names)
    names = [normalize("NFC", name) for name in classes]
    reason = _mismatch(images.names, names, classifier)
    if reason:
        return f"{_NOT_USED}: {reason}"
    count = len(images.files)
    cut = min(_CALIBRATION, max(_FEWEST, count // 4))
    left = max(count - cut, 0)
    if count < most and left * max_drop < 100 * (max_drop > 0):
        needed = math.ceil(100 / max_drop)
        enough = min(needed + max(_FEWEST, needed // 3 + 1), most)
        return f"{_NOT_USED}: {counted(count, 'image')} cannot show a loss of {max_drop:g} points, {enough} can"
    order = np.random.default_rng(0).permutation(count)
    chosen, others = (images.part(sorted(part.tolist())) for part in (order[:cut], order[cut:]))
    labels = np.array([names.index(normalize("NFC", folder)) for folder in others.folders])
    evaluation = others.read(signature, dataset)
    note = ""
    if not classifier.classes:
        scores = next(output for output in classifier.run(evaluation.array).values() if output.ndim == 2)
        if not _fits(scores.argmax(1), labels):
            return f"{_NOT_USED}: the float32 network predicts other classes than the order of their names suggests"
        note = _ASSUMED
    return LabelledImages(chosen.read(signature, dataset), evaluation, labels, note)


def _in_order(names: Sequence[str]) -> list[str]:
    """Return the names in the order of the numbers 0, 1, ... if that is what they are, else as they are."""
    numbers = {int(name): name for name in names if name.isdecimal()}
    return [numbers[number] for number in range(len(names))] if set(numbers) == set(range(len(names))) else [*names]


def _mismatch(folders: Sequence[str], names: Sequence[str], classifier: Classifier) -> str:
    """Return why folders cannot be the classes with these names, or ""."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    strange = [folder for folder in folders if normalize("NFC", folder) not in names]
    if twice:
        return f"two classes have the name {twice[0]!r}"
    if strange:
        return f"{strange[0]!r} is not a class of the network ({choices(strange[0], names)})"
    if len(names) != classifier.scores:
        known = counted(len(names), *(("class", "classes") if classifier.classes else ("folder", "folders")))
        return f"there are {known}, and {counted(classifier.scores, 'score')}"
    return ""


def _fits(predicted: Array, labels: Array) -> bool:
    """Return whether the most frequent prediction is the label itself for more than half of the labels."""
    found = [np.bincount(predicted[labels == label]).argmax() == label for label in np.unique(labels)]
    return sum(found) > len(found) / 2
