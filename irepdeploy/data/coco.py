"""COCO (Lin et al. 2014), 118,287 photographs with boxes of 80 classes, and other data sets with the same layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.coco_annotations import CocoAnnotations, check_files, check_size, read_coco
from irepdeploy.data.dataset import DatasetFacts, ObjectDataset
from irepdeploy.data.decoding import open_image
from irepdeploy.data.imagenet import IMAGENET
from irepdeploy.data.options import existing_folder, switch, whole
from irepdeploy.data.pixels import normalize
from irepdeploy.detect.resizing import Resizing
from irepdeploy.detect.target import Target
from irepdeploy.errors import InputError

__all__ = ["COCO", "ObjectFiles", "coco"]

# MMDetection normalizes by the statistics of ImageNet and excludes images with a side below 32 pixels.
COCO = DatasetFacts("coco", (3, 512, 512), (), IMAGENET.mean, IMAGENET.std)
_LEAST_SIDE = 32


@dataclass(frozen=True)
class ObjectFiles:
    """Image files with the objects in them, decoded on access.

    Args:
        folder: Folder of the images.
        annotations: File names, and the objects in pixels of the stored images.
        resizing: Rule for resizing the images; None to keep their size.
    """

    folder: Path
    annotations: CocoAnnotations
    resizing: Resizing | None = None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return a normalized image (3, H, W) float32 and its objects in pixels of that image.

        Raises:
            InputError: The file is missing or damaged, or its size differs from the annotations.
        """
        picture = self._picture(index)
        scale = (1.0, 1.0)
        if self.resizing is not None:
            picture, scale = self.resizing.resized(picture)
        return normalize(_bytes(picture)[None], COCO.mean, COCO.std)[0], self._target(index, scale)

    def raw(self, index: int) -> tuple[Tensor, Target]:
        """Return an image (3, H, W) uint8 as stored, and its objects."""
        return _bytes(self._picture(index)), self._target(index, (1.0, 1.0))

    @property
    def normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of each channel, for pixels in [0, 1]."""
        return COCO.mean, COCO.std

    @property
    def upright(self) -> list[bool]:
        """Whether each image is taller than wide."""
        return [target.size[0] > target.size[1] for target in self.annotations.targets]

    def _picture(self, index: int) -> Any:
        path = self.folder / self.annotations.files[index]
        with open_image(path) as opened:
            # Ignore the orientation in the EXIF data, because boxes are in pixels of the stored image.
            picture = opened.convert("RGB")
        check_size(picture.width, picture.height, self.annotations.targets[index], path)
        return picture

    def _target(self, index: int, scale: tuple[float, float]) -> Target:
        target = self.annotations.targets[index]
        factors = torch.tensor([*scale, *scale], dtype=torch.float64)
        areas = None if target.areas is None else (target.areas * scale[0] * scale[1]).float()
        return replace(target, boxes=(target.boxes * factors).float(), areas=areas, scale=scale)


def coco(
    *,
    root: str | os.PathLike[str],
    year: int | str = 2017,
    height: int = 512,
    width: int = 512,
    turn: bool = False,
    resize_test: bool = True,
    train: int | None = None,
    val: int = 5000,
    split_seed: int = 0,
) -> ObjectDataset:
    """Open COCO: annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/ and val2017/.

    Images and boxes that MMDetection excludes from training are excluded; the test set, val2017, is complete.

    Args:
        root: Folder of the data set.
        year: Suffix of "train" and "val" in the names of folders and files.
        height: Height in pixels of the area into which images are resized to fit, keeping their aspect ratio.
        width: Width in pixels of that area.
        turn: Swap `height` and `width` for images that are taller than wide, as MMDetection does.
        resize_test: Also resize the images that are scored. MMDetection scores CenterNet on images in original size.
        train: Number of training images; None for all outside the search-validation set.
        val: Number of search-validation images, taken from the training set.
        split_seed: Seed of this split.

    Raises:
        InputError: Files are missing or damaged, or the split is impossible.
    """
    size = whole("height", height, 32, 4096), whole("width", width, 32, 4096)
    resizing = Resizing("fit", *size, turned=switch("turn", turn))
    scored = resizing if switch("resize_test", resize_test) else None
    val, split_seed = whole("val", val, 1), whole("split_seed", split_seed, 0, 2**60)
    folder = existing_folder(root)
    known = _opened(folder, f"train{year}").trainable(_LEAST_SIDE)
    count = len(known) - val if train is None else whole("train", train, 2)
    if count < 2 or count + val > len(known):
        raise InputError(
            f"val={val} and train={'all others' if train is None else train} do not fit: the training set has "
            f"{len(known)} images with objects",
            where="data",
        )
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(split_seed)).tolist()
    images = folder / f"train{year}"

    def test() -> ObjectFiles:
        held_out = _opened(folder, f"val{year}")
        if held_out.classes != known.classes:
            raise InputError("its categories differ from those of the training set", where=held_out.path)
        return ObjectFiles(folder / f"val{year}", held_out, scored)

    facts = replace(COCO, input_shape=(3, resizing.height, resizing.width), classes=known.classes)
    return ObjectDataset(
        **vars(facts),
        train=ObjectFiles(images, known.chosen(sorted(order[val : val + count])), resizing),
        val=ObjectFiles(images, known.chosen(sorted(order[:val])), scored),
        load_test=test,
    )


def _bytes(picture: Any) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _opened(folder: Path, part: str) -> CocoAnnotations:
    found = read_coco(folder / "annotations" / f"instances_{part}.json")
    check_files(folder / part, found)
    return found
