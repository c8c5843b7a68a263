"""COCO (Lin et al. 2014), and any data set with its layout: 118,287 photographs with boxes of 80 classes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.coco_annotations import CocoAnnotations, check_files, read_coco
from irepdeploy.data.dataset import DatasetFacts, ObjectDataset
from irepdeploy.data.decoding import open_image
from irepdeploy.data.imagenet import IMAGENET
from irepdeploy.data.options import existing_folder, whole
from irepdeploy.data.pixels import normalise
from irepdeploy.detect.resizing import Resizing
from irepdeploy.detect.target import Target
from irepdeploy.errors import InputError

__all__ = ["COCO", "ObjectFiles", "coco"]

# MMDetection normalises by the statistics of ImageNet, and leaves out images with a side below 32 pixels.
COCO = DatasetFacts("coco", (3, 512, 512), (), IMAGENET.mean, IMAGENET.std)
_LEAST_SIDE = 32


@dataclass(frozen=True)
class ObjectFiles:
    """Image files with the objects in them, decoded on access.

    Args:
        folder: Folder of the images.
        annotations: Names of the files, and the objects in pixels of the stored images.
        resizing: How an image is resized; None: not at all.
    """

    folder: Path
    annotations: CocoAnnotations
    resizing: Resizing | None = None

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return a normalised image (3, H, W) float32 and its objects in pixels of it.

        Raises:
            InputError: The file is missing or damaged, or has another size than the annotations say.
        """
        path, target = self.folder / self.annotations.files[index], self.annotations.targets[index]
        with open_image(path) as opened:
            # The orientation in a photograph's EXIF data is ignored: boxes are in pixels as they are stored.
            picture = opened.convert("RGB")
        if picture.size[::-1] != target.size:
            raise InputError(
                "an image of {}x{}, annotated as {}x{}".format(*picture.size, *target.size[::-1]), where=path
            )
        scale = (1.0, 1.0)
        if self.resizing is not None:
            picture, scale = self.resizing.resized(picture)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        factors = torch.tensor([*scale, *scale], dtype=torch.float64)
        areas = None if target.areas is None else (target.areas * scale[0] * scale[1]).float()
        moved = replace(target, boxes=(target.boxes * factors).float(), areas=areas)
        return normalise(pixels[None], COCO.mean, COCO.std)[0], moved


def coco(
    *,
    root: str | os.PathLike[str],
    year: int | str = 2017,
    height: int = 512,
    width: int = 512,
    train: int | None = None,
    val: int = 5000,
    split_seed: int = 0,
) -> ObjectDataset:
    """Open COCO: annotations/instances_train2017.json, annotations/instances_val2017.json, train2017/ and val2017/.

    Training leaves out what MMDetection does; the test set, val2017, is complete.

    Args:
        root: Folder of the data set.
        year: What follows "train" and "val" in the names of folders and files.
        height: Images keep their aspect ratio and are resized to fit into it and `width`.
        width: See `height`.
        train: Number of training images; None for all outside the search-validation set.
        val: Number of search-validation images, taken from the training set.
        split_seed: Seed of this split.
    """
    resizing = Resizing("fit", whole("height", height, 32, 4096), whole("width", width, 32, 4096))
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
            raise InputError("expected the categories of the training set", where=held_out.path)
        return ObjectFiles(folder / f"val{year}", held_out, resizing)

    facts = replace(COCO, input_shape=(3, resizing.height, resizing.width), classes=known.classes)
    return ObjectDataset(
        **vars(facts),
        train=ObjectFiles(images, known.chosen(sorted(order[val : val + count])), resizing),
        val=ObjectFiles(images, known.chosen(sorted(order[:val])), resizing),
        load_test=test,
    )


def _opened(folder: Path, part: str) -> CocoAnnotations:
    found = read_coco(folder / "annotations" / f"instances_{part}.json")
    check_files(folder / part, found)
    return found
