"""Inputs in files: arrays, archives of arrays for models of several inputs, images."""

from __future__ import annotations

import os
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, one_line
from irepdeploy.limits import check_memory, open_file
from irepdeploy.verify.inputs import InputGroup, joined, mapped, samples_in, specs_of

__all__ = ["READABLE", "checked", "fitted", "normalisation", "normalised", "planes", "read_inputs"]

Array = np.ndarray[Any, Any]

# Suffixes of arrays and images.
READABLE = {".npy", ".npz", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MOST = 256
# numpy raises them for damaged files, and MemoryError where a header claims a huge shape.
_UNREADABLE = (
    ArithmeticError, AttributeError, EOFError, MemoryError, NotImplementedError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_MEAN, _STD = (0.45,), (0.25,)


def read_inputs(
    path: str | os.PathLike[str], wanted: Sequence[int] | Sequence[TensorSpec] | None = None, dataset: str | None = None
) -> InputGroup:
    """Read up to 256 inputs from a ``.npy`` or ``.npz`` file, or from such files and images of a folder, by name.

    Arrays are (N, ...) or one input without a batch, already normalised; a ``.npz`` file holds one for each input of
    the model, by its name. Images are resized and normalised like those of the data set, else as (x - 0.45) / 0.25.
    `wanted` is the shape of one float32 input without its batch, or the inputs of the model; by default that of the
    first array, (N, C, H, W) or (C, H, W) in a ``.npy`` file and (N, ...) in a ``.npz`` file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            "no such file or folder of inputs", where=path, hint="--inputs takes a .npy or .npz file, or a folder"
        )
    specs = None if wanted is None else specs_of(wanted)
    files = _files(path)
    parts: list[Any] = []
    note = ""
    for file in files:
        part, how = _read(file, specs, dataset)
        parts.append(part)
        note = how or note
        specs = specs or _specs_in(part)
        if sum(map(samples_in, parts)) >= _MOST:
            break
    inputs = joined(parts)
    if samples_in(inputs) > _MOST or file is not files[-1]:
        inputs, note = mapped(inputs, lambda array: array[:_MOST]), f", the first {_MOST}{note}"
    return InputGroup(f"{path}{note}", inputs)


def checked(array: Any, spec: TensorSpec | None, where: object) -> Array:
    """Check shape, dtype and values of an array, and return at most 257 of its inputs, (N, ...).

    Without a `spec`, a float32 image of any size is expected.
    """
    dtype = "float32" if spec is None else spec.dtype
    sizes = (None, None, None) if spec is None else spec.shape[1:]
    if not isinstance(array, np.ndarray):
        raise InputError(f"expected an array, got a {type(array).__name__}", where=where)
    if array.dtype != np.dtype(dtype):
        raise InputError(f"expected dtype {dtype}, got {array.dtype}", where=where, hint=f"array.astype({dtype!r})")
    if array.ndim == len(sizes):
        array = array[None]
    if array.ndim != len(sizes) + 1 or any(
        due is not None and due != size for due, size in zip(sizes, array.shape[1:], strict=True)
    ):
        due = (
            "N, C, H, W" if spec is None else ", ".join(["N", *("?" if size is None else str(size) for size in sizes)])
        )
        raise InputError(f"expected shape ({due}), got {array.shape}", where=where)
    if array.size == 0:
        raise InputError(f"shape {array.shape}: contains no input", where=where)
    array = np.array(array[: _MOST + 1])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("contains NaN or infinity", where=where)
    return array


def fitted(arrays: Mapping[str, Any], specs: Sequence[TensorSpec], where: object) -> dict[str, Array]:
    """Check that arrays match the inputs of a model in names, shapes, types and number, and return them by name."""
    due = [spec.name for spec in specs]
    if set(arrays) != set(due):
        raise InputError(f"expected arrays {', '.join(due)}, got {', '.join(sorted(arrays)) or 'none'}", where=where)
    found = {spec.name: checked(arrays[spec.name], spec, f"{where}, {spec.name}") for spec in specs}
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"expected the same number of inputs for each name, got {counts}", where=where)
    return found


def _specs_in(inputs: Any) -> list[TensorSpec]:
    arrays = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    return [TensorSpec(name, (None, *array.shape[1:]), array.dtype.name) for name, array in arrays.items()]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in READABLE:
            raise InputError("expected a .npy or .npz file or an image", where=path)
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in READABLE)
    except OSError as error:
        raise InputError(f"cannot read this folder: {error.strerror}", where=path) from error
    if not files:
        raise InputError("no .npy file, .npz file or image in this folder", where=path)
    return files


def _read(file: Path, specs: Sequence[TensorSpec] | None, dataset: str | None) -> tuple[Any, str]:
    """Return the inputs in one file, and how they were normalised."""
    kind = file.suffix.lower()
    if kind == ".npz":
        return _from_archive(file, specs), ""
    if specs is not None and len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(
            f"expected {len(specs)} arrays, got one: {names}",
            where=file,
            hint=f"numpy.savez(path, {specs[0].name}=...)",
        )
    spec = None if specs is None else specs[0]
    if kind == ".npy":
        return checked(_read_array(file), spec, file), ""
    if spec is None:
        raise InputError(
            "the size of the network's input is not known from images", where=file, hint="give a .npy file"
        )
    mean, std = normalisation(dataset)
    return _read_image(file, spec, mean, std), f", images normalised as (x - {_numbers(mean)}) / {_numbers(std)}"


def _from_archive(file: Path, specs: Sequence[TensorSpec] | None) -> Any:
    try:
        # Opened here, since numpy does not close a damaged file.
        with (
            np.errstate(all="raise"),
            open_file(file, "archive of arrays") as handle,
            np.load(handle, allow_pickle=False) as archive,
        ):
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError("not an archive of arrays", where=file, hint="numpy.savez(path, name=array)")
            assert archive.zip is not None
            unpacked = sum([member.file_size for member in archive.zip.infolist()])
            check_memory(unpacked, "this archive", file)
            arrays = {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise InputError(f"not a readable archive of arrays: {one_line(error)}", where=file) from error
    # numpy returns the bytes of a member that is no array.
    if not arrays or any(not isinstance(array, np.ndarray) or array.ndim == 0 for array in arrays.values()):
        raise InputError("contains no arrays (N, ...)", where=file, hint="numpy.savez(path, name=array)")
    found = fitted(arrays, specs or _specs_in(arrays), file)
    return found if len(found) > 1 else next(iter(found.values()))


def _read_array(path: Path) -> Array:
    # Only its kind matters: it is memory-mapped, so that only the inputs that are used are read.
    open_file(path, "array", sys.maxsize).close()
    try:
        with np.errstate(all="raise"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise InputError(f"not a readable array: {one_line(error)}", where=path) from error
    if not isinstance(array, np.ndarray):
        raise InputError("not one array", where=path, hint="write it with numpy.save")
    return array


def _read_image(path: Path, spec: TensorSpec, mean: Sequence[float], std: Sequence[float]) -> Array:
    from PIL import Image

    from irepdeploy.data.decoding import open_image

    shape = tuple(spec.shape[1:])
    if len(shape) != 3 or shape[0] not in (1, 3) or spec.dtype != "float32":
        raise InputError(f"images have 1 or 3 channels, but the network takes {spec}", where=path, hint="give arrays")
    channels, height, width = (int(size or 0) for size in shape)
    with open_image(path) as image:
        pixels = np.asarray(
            image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR),
            dtype=np.float32,
        )
    return normalised(pixels, mean, std)[None]


def normalisation(dataset: str | None) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the channels of a data set, 0.45 and 0.25 if it is not known."""
    from irepdeploy.data import dataset_facts

    data = dataset_facts(dataset)
    return (_MEAN, _STD) if data is None else (data.mean, data.std)


def normalised(pixels: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Return pixels from 0 to 255, (H, W) or (H, W, C), as the normalised input (C, H, W) of a network."""
    scaled = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray((scaled - planes(mean)) / planes(std))


def planes(values: Sequence[float]) -> Array:
    """Return numbers by channel as (C, 1, 1)."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def _numbers(values: Sequence[float]) -> str:
    return (
        ", ".join(f"{value:g}" for value in values) if len(values) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"
    )
