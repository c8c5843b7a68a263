"""Read images, both as inputs of a network and as pixels to show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.data import dataset_facts, embedded_dataset
from irepdeploy.data.decoding import open_image
from irepdeploy.data.photographs import photograph_files
from irepdeploy.errors import InputError
from irepdeploy.verify.input_files import READABLE, normalization, normalized, planes, read_inputs

__all__ = ["ShownImage", "read_images"]

Array = np.ndarray[Any, Any]

_ARRAYS = (".npy", ".npz")
_FEW = 2
_MOST = 12


@dataclass(frozen=True)
class ShownImage:
    """One image: the network's input (C, H, W) float32, and the pixels (H, W, 3) from 0 to 1 to show."""

    name: str
    array: Array
    pixels: Array


def read_images(
    files: Sequence[str | os.PathLike[str]], shape: Sequence[int], dataset: str | None = None
) -> list[ShownImage]:
    """Read images from files, or else from the network's embedded data set, or else scikit-learn's photographs.

    Images are cropped to the network's aspect ratio around the centre, resized, and normalized like the data set or, if
    there is none, by (x - 0.45) / 0.25. Arrays (``.npy``) are used unchanged.

    Args:
        files: Images, arrays, or folders of them.
        shape: Input shape (C, H, W) of the network.
        dataset: Name of the network's data set, if known.

    Raises:
        InputError: A file cannot be read, there are too many files, or C is not 1 or 3.
    """
    shape = tuple(shape)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            f"images have 1 or 3 channels, not the shape {'x'.join(map(str, shape)) or 'unknown'}",
            hint="save your own network with its input shape: irepdeploy.save(net, path, input_shape=(C, H, W))",
        )
    facts = dataset_facts(dataset)
    mean, std = normalization(dataset)
    paths = [file for given in files for file in _files(Path(given))]
    if len(paths) > _MOST:
        raise InputError(f"{len(paths)} images are too many for one picture", hint=f"at most {_MOST}")
    if not paths:
        data = None if facts is None else embedded_dataset(facts.name)
        if data is not None and tuple(data.input_shape) == shape:
            arrays = list(data.val.images[:_FEW].numpy())
            return [_image(f"{data.name} {index}", array, mean, std) for index, array in enumerate(arrays)]
        paths = photograph_files()
    found: list[ShownImage] = []
    for file in paths:
        if file.suffix.lower() in _ARRAYS:
            arrays = list(read_inputs(file, shape, dataset).array)[:_MOST]
            names = [file.name] if len(arrays) == 1 else [f"{file.name} {index}" for index in range(len(arrays))]
            found += [_image(name, array, mean, std) for name, array in zip(names, arrays, strict=True)]
        else:
            found.append(_image(file.name, _read(file, shape, mean, std), mean, std))
    return found[:_MOST]


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the images and arrays in a folder."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in READABLE)
    if not found:
        raise InputError("no image and no .npy file in this folder", where=path)
    return found


def _read(path: Path, shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]) -> Array:
    from PIL import Image, ImageOps

    channels, height, width = shape
    with open_image(path) as opened:
        image = ImageOps.fit(
            ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB"),
            (width, height),
            Image.Resampling.BILINEAR,
        )
    return normalized(np.asarray(image, dtype=np.float32), mean, std)


def _image(name: str, array: Array, mean: Sequence[float], std: Sequence[float]) -> ShownImage:
    pixels = np.clip(array * planes(std) + planes(mean), 0, 1).transpose(1, 2, 0)
    return ShownImage(name, array, np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
