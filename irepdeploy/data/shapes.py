"""A generated detection data set: digits of scikit-learn or articles of Fashion-MNIST, pasted on canvases.

No drawing, and no part of a background photograph, occurs in more than one of the three sets. A box tightly encloses
the ink, not the pasted tile.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.dataset import DatasetFacts, ObjectDataset, Split
from irepdeploy.data.digits import DIGITS
from irepdeploy.data.fashion_mnist import FASHION_MNIST, fashion_mnist
from irepdeploy.data.objects_in_memory import ObjectsInMemory
from irepdeploy.data.options import whole
from irepdeploy.data.photographs import photograph_files
from irepdeploy.data.pixels import Pixels
from irepdeploy.detect.target import Target, Targets
from irepdeploy.errors import InputError

__all__ = ["LEAST_SIDE", "SHAPES", "shapes"]

Array = np.ndarray[Any, Any]
Drawings = tuple[Array, Array]

# Mean and standard deviation are those of canvases with noise.
SHAPES = DatasetFacts("shapes", (1, 64, 64), DIGITS.classes, (0.28,), (0.24,))
LEAST_SIDE, _LARGEST_SIDE = 32, 1024
_MOST_OBJECTS, _TRIES = 3, 20
# Range of the sides of pasted tiles, as shares of the canvas.
_SIDES = (0.19, 0.44)
_INK, _OVERLAP = 0.15, 0.1
_SETS = ("train", "val", "test")
# Boundaries between the three sets: indices of scikit-learn's digits, and shares of the width of a photograph.
_DIGITS = (0, 1200, 1500, 1797)
_STRIPS = (0.0, 0.6, 0.8, 1.0)


def shapes(
    *,
    root: str | os.PathLike[str] | None = None,
    source: str = "digits",
    background: str = "noise",
    size: int = 64,
    train: int = 4000,
    val: int = 300,
    test: int = 300,
    seed: int = 0,
) -> ObjectDataset:
    """Generate grey canvases (1, size, size) with one to three objects each, in memory.

    Args:
        root: Folder with the four files of Fashion-MNIST; None for that of the Debian package.
        source: "digits" (of scikit-learn) or "fashion" (articles of Fashion-MNIST).
        background: "noise", or "photographs" (crops of those in scikit-learn), which is harder.
        size: Side of the canvases in pixels, at least 32.
        train: Number of training canvases.
        val: Number of search-validation canvases.
        test: Number of test canvases.
        seed: Seed of the canvases. The sets are independent of each other.

    Raises:
        InputError: An option is invalid.
        MissingError: A package or data set is not installed.
    """
    if source not in _SOURCES:
        raise InputError(f"expected {' or '.join(_SOURCES)}, got {source!r}", where="data option source")
    if background not in ("noise", "photographs"):
        raise InputError(f"expected noise or photographs, got {background!r}", where="data option background")
    if root is not None and source == "digits":
        raise InputError("the digits need no files", where="data.root", hint="omit it, or data.options.source=fashion")
    size, seed = whole("size", size, LEAST_SIDE, _LARGEST_SIDE), whole("seed", seed, 0, 2**32)
    counts = {"train": whole("train", train, 2), "val": whole("val", val, 1), "test": whole("test", test, 1)}
    drawings, classes = _SOURCES[source](root)

    def composed(name: str) -> ObjectsInMemory:
        index = _SETS.index(name)
        random = np.random.default_rng([seed, index])
        behind = _noise if background == "noise" else _Strips(index).crop
        # On noise, take the maximum of ink and background; on a photograph that could hide an object.
        return _compose(drawings(name), behind, counts[name], size, random, opaque=background == "photographs")

    facts = DatasetFacts("shapes", (1, size, size), classes, SHAPES.mean, SHAPES.std)
    return ObjectDataset(
        **vars(facts), train=composed("train"), val=composed("val"), load_test=lambda: composed("test")
    )


def _compose(
    drawings: Drawings,
    behind: Callable[[np.random.Generator, int], Array],
    count: int,
    size: int,
    random: np.random.Generator,
    *,
    opaque: bool,
) -> ObjectsInMemory:
    tiles, labels = drawings
    canvases, targets = np.empty((count, 1, size, size), np.uint8), Targets()
    for number in range(count):
        canvas = behind(random, size)
        boxes: list[list[int]] = []
        found: list[int] = []
        for _ in range(int(random.integers(1, _MOST_OBJECTS + 1))):
            chosen = int(random.integers(len(tiles)))
            tile = _resized(tiles[chosen], round(size * random.uniform(*_SIDES)))
            place = _place(tile, size, boxes, random)
            if place is not None:
                box, (top, left) = place
                part = canvas[top : top + len(tile), left : left + len(tile)]
                ink = tile * random.uniform(0.6, 1)
                np.copyto(part, ink, where=tile > _INK if opaque else ink > part)
                boxes.append(box)
                found.append(int(labels[chosen]))
        canvases[number, 0] = np.clip(canvas * 255, 0, 255).round()
        crowd = torch.zeros(len(found), dtype=torch.bool)
        corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
        # As in COCO, image ids differ from indices.
        targets.append(Target(corners, torch.tensor(found, dtype=torch.int64), crowd, number + 1, (size, size)))
    return ObjectsInMemory(Pixels(torch.from_numpy(canvases), SHAPES.mean, SHAPES.std), targets)


def _place(
    tile: Array, size: int, boxes: list[list[int]], random: np.random.Generator
) -> tuple[list[int], tuple[int, int]] | None:
    """Return the box of a tile's ink and the position of the tile's corner; None if the canvas is full."""
    ink = tile > _INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not len(rows):
        return None
    for _ in range(_TRIES):
        top, left = (int(random.integers(size - len(tile) + 1)) for _ in range(2))
        box = [left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1]
        if all(_iou(box, other) <= _OVERLAP for other in boxes):
            return box, (top, left)
    return None


def _iou(one: list[int], other: list[int]) -> float:
    wide, tall = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    inside = max(wide, 0) * max(tall, 0)
    first, second = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return inside / (first + second - inside)


def _resized(tile: Array, side: int) -> Array:
    weights = _weights(len(tile), side)
    return weights @ (tile.astype(np.float32) / 255) @ weights.T


@functools.cache
def _weights(before: int, after: int) -> Array:
    """Return the matrix (after, before) by which Pillow resamples a column bilinearly."""
    from PIL import Image

    unit = Image.fromarray(np.eye(before, dtype=np.float32))
    return np.asarray(unit.resize((before, after), Image.Resampling.BILINEAR))


def _noise(random: np.random.Generator, size: int) -> Array:
    level = random.uniform(0.1, 0.35)
    return level + 0.06 * random.standard_normal((size, size), np.float32)


class _Strips:
    """A vertical strip of each photograph, darkened to half so that light ink stands out."""

    def __init__(self, index: int) -> None:
        from PIL import Image

        self.strips = []
        for path in photograph_files():
            picture = Image.open(path).convert("L")
            left, right = (round(picture.width * share) for share in _STRIPS[index : index + 2])
            self.strips.append(picture.crop((left, 0, right, picture.height)))

    def crop(self, random: np.random.Generator, size: int) -> Array:
        from PIL import Image

        strip = self.strips[int(random.integers(len(self.strips)))]
        side = int(random.integers(min(strip.size) // 3, min(strip.size) + 1))
        left, top = (int(random.integers(extent - side + 1)) for extent in strip.size)
        box = (left, top, left + side, top + side)
        return np.asarray(strip.resize((size, size), Image.Resampling.BILINEAR, box=box), np.float32) / 510


def _digits(root: Any) -> tuple[Callable[[str], Drawings], tuple[str, ...]]:
    from sklearn.datasets import load_digits

    raw = load_digits()
    tiles = np.clip(raw.images * 16, 0, 255).astype(np.uint8)
    # Use the order of the data set `digits`, whose first 1,200 images are for training.
    order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0)).numpy()

    def chosen(name: str) -> Drawings:
        index = _SETS.index(name)
        part = order[_DIGITS[index] : _DIGITS[index + 1]]
        return tiles[part], raw.target[part]

    return chosen, DIGITS.classes


def _fashion(root: Any) -> tuple[Callable[[str], Drawings], tuple[str, ...]]:
    data = fashion_mnist(root=root)

    def chosen(name: str) -> Drawings:
        split = data.load_test() if name == "test" else data.train if name == "train" else data.val
        return _bytes(split)[:, 0], split.labels.numpy()

    return chosen, FASHION_MNIST.classes


def _bytes(split: Split) -> Array:
    assert isinstance(split.images, Pixels)
    values: Tensor = split.images.values
    return values.numpy()


_SOURCES = {"digits": _digits, "fashion": _fashion}
