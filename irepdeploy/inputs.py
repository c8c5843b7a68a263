"""Inputs that models are compared on: seeded random ones, and real ones or the user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import InputError

__all__ = ["InputGroup", "gather_inputs", "read_inputs"]

Array = np.ndarray[Any, Any]

_IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_LARGE = 64
_MOST = 256
_MEAN, _STD = (0.45,), (0.25,)


@dataclass(frozen=True)
class InputGroup:
    """Inputs of one origin.

    Args:
        name: where they are from.
        array: (N, C, H, W) float32.
        seed: of random ones, else None.
    """

    name: str
    array: Array
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The group without its numbers, as a certificate keeps it."""
        return {"name": self.name, "count": len(self.array), "shape": list(self.array.shape[1:]), "seed": self.seed}


def gather_inputs(
    shape: tuple[int, ...],
    *,
    given: str | os.PathLike[str] | Array | None = None,
    dataset: str | None = None,
    seed: int = 0,
) -> list[InputGroup]:
    """8 seeded random inputs and 64 real ones (8 where a side is above 64), or those given in place of the real ones.

    Args:
        shape: (C, H, W) of one input.
        given: an array (N, C, H, W) or (C, H, W), or where `read_inputs` finds some.
        dataset: name of the data set that the network was trained on; its search-validation images are the real ones.

    Raises:
        InputError: there are no real inputs of this shape, or those given do not fit.
    """
    from irepdeploy.data import random_inputs, real_inputs

    groups = [InputGroup("random, standard normal", random_inputs(shape, 8, seed), seed)]
    if given is None:
        array, name = real_inputs(shape, 8 if max(shape[1:], default=0) > _LARGE else 64, dataset)
        groups.append(InputGroup(name, array))
    elif isinstance(given, str | os.PathLike):
        groups.append(read_inputs(given, shape, dataset))
    else:
        groups.append(InputGroup("given inputs", _checked(given, shape, "inputs")))
    return groups


def read_inputs(
    path: str | os.PathLike[str], shape: tuple[int, ...] | None = None, dataset: str | None = None
) -> InputGroup:
    """Inputs from a ``.npy`` file, or from all such files and images of a folder, by name; 256 at most.

    Arrays are float32, (N, C, H, W) or (C, H, W), already normalised. Images are resized to `shape` and normalised as
    those of the data set, else as (x - 0.45) / 0.25.

    Args:
        shape: (C, H, W) that they must have; None takes that of the first array.

    Raises:
        InputError: nothing is there, or something of a wrong shape, dtype or form.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file or folder of inputs", where=path, hint="--inputs takes a .npy file or a folder")
    files = _files(path)
    parts: list[Array] = []
    note = ""
    for file in files:
        if file.suffix.lower() == ".npy":
            parts.append(_checked(_read_array(file), shape, file))
        else:
            if shape is None:
                raise InputError("images do not say what size the network takes", where=file, hint="give a .npy file")
            mean, std = _normalisation(dataset)
            parts.append(_read_image(file, shape, mean, std))
            note = f", images normalised as (x - {_numbers(mean)}) / {_numbers(std)}"
        shape = parts[-1].shape[1:]
        if sum(map(len, parts)) >= _MOST:
            break
    array = np.concatenate(parts)
    if len(array) > _MOST or file is not files[-1]:
        array, note = array[:_MOST], f", the first {_MOST}{note}"
    return InputGroup(f"{path}{note}", array)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in {".npy", *_IMAGES}:
            raise InputError("neither a .npy file nor an image", where=path)
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in {".npy", *_IMAGES})
    except OSError as error:
        raise InputError(f"cannot read this folder: {error.strerror}", where=path) from error
    if not files:
        raise InputError("no .npy file and no image in this folder", where=path)
    return files


def _read_array(path: Path) -> Array:
    try:
        # Mapped, so that a file of any size costs only what is used of it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"not an array that can be read: {error}", where=path) from error
    if not isinstance(array, np.ndarray):
        raise InputError("not one array", where=path, hint="write it with numpy.save")
    return array


def _checked(array: Array, shape: tuple[int, ...] | None, where: object) -> Array:
    if not isinstance(array, np.ndarray):
        raise InputError(f"a {type(array).__name__} where an array is due", where=where)
    if array.dtype != np.float32:
        raise InputError(f"dtype {array.dtype} where float32 is due", where=where, hint="array.astype('float32')")
    if array.ndim == 3:
        array = array[None]
    due = "(N, C, H, W)" if shape is None else f"(N, {', '.join(map(str, shape))})"
    if array.ndim != (4 if shape is None else len(shape) + 1) or (
        shape is not None and array.shape[1:] != tuple(shape)
    ):
        raise InputError(f"shape {array.shape} where {due} is due", where=where)
    if array.size == 0:
        raise InputError(f"shape {array.shape}: it holds no input", where=where)
    array = np.array(array[: _MOST + 1])
    if not np.isfinite(array).all():
        raise InputError("it holds NaN or infinity", where=where)
    return array


def _read_image(path: Path, shape: tuple[int, ...], mean: Sequence[float], std: Sequence[float]) -> Array:
    from PIL import Image

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            f"an image has 1 or 3 channels, and the network takes {shape}", where=path, hint="give .npy files"
        )
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            pixels = np.asarray(
                image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR),
                dtype=np.float32,
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"not an image that can be read: {error}", where=path) from error
    planes = pixels.reshape(height, width, channels).transpose(2, 0, 1) / np.float32(255)
    scaled = (planes - np.asarray(mean, np.float32).reshape(-1, 1, 1)) / np.asarray(std, np.float32).reshape(-1, 1, 1)
    return np.ascontiguousarray(scaled[None], dtype=np.float32)


def _normalisation(name: str | None) -> tuple[Sequence[float], Sequence[float]]:
    from irepdeploy.data import load_dataset

    if name is None:
        return _MEAN, _STD
    data = load_dataset(name)
    return data.mean, data.std


def _numbers(values: Sequence[float]) -> str:
    return (
        ", ".join(f"{value:g}" for value in values) if len(values) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"
    )
