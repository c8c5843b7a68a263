"""Read inputs from files: arrays, archives of arrays for models with several inputs, and images."""

from __future__ import annotations

import itertools
import os
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.board.runner import shape_text
from irepdeploy.errors import InputError, counted, one_line
from irepdeploy.limits import check_memory, open_file
from irepdeploy.verify.input_spec import UNNAMED, InputSpec
from irepdeploy.verify.inputs import InputGroup, Wanted, signature_of
from irepdeploy.verify.samples import joined, mapped, samples_in

__all__ = [
    "ARRAYS",
    "READABLE",
    "class_folders",
    "fitted",
    "input_files",
    "normalization",
    "normalized",
    "planes",
    "read_arrays",
    "read_file",
    "read_inputs",
]

Array = np.ndarray[Any, Any]

# Suffixes of arrays and images.
ARRAYS = {".npy", ".npz"}
READABLE = {*ARRAYS, ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MOST = 256
# Errors that numpy raises for damaged files, including MemoryError if a header claims a huge shape.
_UNREADABLE = (
    ArithmeticError, AttributeError, EOFError, MemoryError, NotImplementedError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_MEAN, _STD = (0.45,), (0.25,)


def read_inputs(path: str | os.PathLike[str], wanted: Wanted | None = None, dataset: str | None = None) -> InputGroup:
    """Read up to 256 inputs from an array file or an image, or from all such files of a folder in the order of names.

    If a folder contains only folders, such as one for each class, one file of each is read in turn.

    Arrays are (N, ...), a single input without a batch, or shaped as the network takes them. A ``.npz`` file contains
    one array for each input of the model, under its name.

    Args:
        path: A ``.npy`` or ``.npz`` file, an image, a folder of these, or a folder of such folders.
        wanted: The inputs, as for `gather_inputs`. By default they follow from the first array, which is (N, C, H, W)
            or (C, H, W) in a ``.npy`` file and (N, ...) in a ``.npz`` file.
        dataset: Name of the data set whose normalization images get; otherwise they become (x - 0.45) / 0.25. Images
            are resized to the size of the input; those of other sizes are first cropped if they were in training.

    Raises:
        InputError: A file is missing or damaged, or does not fit the inputs.
    """
    path = Path(path)
    specs: Sequence[InputSpec] | None = None if wanted is None else signature_of(wanted).inputs
    files = input_files(path)
    parts: list[Any] = []
    note = ""
    for file in files:
        part, how = read_file(file, specs, dataset)
        parts.append(part)
        note = how or note
        specs = specs or _specs_in(part)
        if sum(map(samples_in, parts)) >= _MOST:
            break
    inputs = joined(parts)
    if samples_in(inputs) > _MOST or file is not files[-1]:
        inputs, note = mapped(inputs, lambda array: array[:_MOST]), f", the first {_MOST}{note}"
    if path.is_dir() and files[0].parent == path and any(map(_readable, class_folders(path))):
        note = f" without the folders in it{note}"
    return InputGroup(f"{path}{note}", inputs)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read the arrays of a ``.npy`` or ``.npz`` file, or of the first file in a folder, without checking them.

    Raises:
        InputError: The file is missing or damaged, or is an image.
    """
    file = input_files(Path(path))[0]
    kind = file.suffix.lower()
    if kind not in (".npy", ".npz"):
        raise _size_unknown(file)
    return _read_archive(file) if kind == ".npz" else {UNNAMED: _read_array(file)}


def fitted(arrays: Mapping[str, Any], specs: Sequence[InputSpec], where: object) -> dict[str, Array]:
    """Check that arrays match the inputs of a model in name, shape, dtype and number of samples.

    Args:
        arrays: The arrays by name of the input.
        specs: The inputs of the model.
        where: The place that an error message names.

    Returns:
        The arrays by name, each (N, ...). A single sample of an input without a batch is repeated N times.

    Raises:
        InputError: The arrays do not match.
    """
    due = [spec.name for spec in specs]
    if set(arrays) != set(due):
        raise InputError(f"expected arrays {', '.join(due)}, got {', '.join(sorted(arrays)) or 'none'}", where=where)
    found = {spec.name: _checked(arrays[spec.name], spec, f"{where}, {spec.name}") for spec in specs}
    counts = {name: len(array) for name, array in found.items()}
    most = max(counts.values())
    for spec in specs:
        if spec.axis is None and counts[spec.name] == 1:
            found[spec.name], counts[spec.name] = np.repeat(found[spec.name], most, axis=0), most
    if len(set(counts.values())) > 1:
        raise InputError(f"expected the same number of inputs for each name, got {counts}", where=where)
    return found


def _checked(array: Any, spec: InputSpec | None, where: object) -> Array:
    """Check shape, dtype and values of an array, and return at most 257 of its inputs as (N, ...).

    Without a `spec`, float32 images of any size are expected.
    """
    dtype = "float32" if spec is None else spec.dtype
    if not isinstance(array, np.ndarray):
        raise InputError(f"expected an array, got a {type(array).__name__}", where=where)
    if array.dtype != np.dtype(dtype):
        raise InputError(f"expected dtype {dtype}, got {array.dtype}", where=where, hint=f"array.astype({dtype!r})")
    stacked = _stacked(array, spec)
    if stacked is None:
        due = "N, C, H, W" if spec is None else ", ".join(["N", *map(str, spec.sample)])
        own = "" if spec is None or spec.axis in (None, 0) else f" or {shape_text(spec.shape)}"
        raise InputError(f"expected shape ({due}){own}, got {array.shape}", where=where)
    if stacked.size == 0:
        raise InputError(f"shape {array.shape}: contains no input", where=where)
    array = np.array(stacked[: _MOST + 1])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("contains NaN or infinity", where=where)
    return array


def _stacked(array: Array, spec: InputSpec | None) -> Array | None:
    """Return a view (N, ...) of an array, or None if its shape does not fit.

    The array may be one batch as the network takes it, samples (N, ...), a single sample, or several batches.
    """
    sample = (None, None, None) if spec is None else spec.sample
    axis = 0 if spec is None else spec.axis
    for found in (
        np.moveaxis(array, axis, 0) if axis is not None and array.ndim > axis else array[None],
        array,
        array[None],
    ):
        if found.ndim == len(sample) + 1 and all(
            due in (None, size) for due, size in zip(sample, found.shape[1:], strict=True)
        ):
            return found
    if axis is not None and array.ndim == len(sample) + 2 and spec is not None:
        batches = np.moveaxis(array, axis + 1, 1)
        return batches.reshape(-1, *sample) if batches.shape[2:] == sample else None
    return None


def _specs_in(inputs: Any) -> list[InputSpec]:
    arrays = inputs if isinstance(inputs, Mapping) else {"input": inputs}
    return [InputSpec(name, (None, *array.shape[1:]), array.dtype.name) for name, array in arrays.items()]


def _size_unknown(file: Path) -> InputError:
    return InputError(
        "the size of the network's input is not known from images",
        where=file,
        hint="give a .npy file, or the size with --input-shape",
    )


def input_files(path: Path) -> list[Path]:
    """Return a file, or the readable files of a folder in the order of names.

    If a folder contains only folders, one file of each in turn, because often only the first ones are read and every
    class should be among them.

    Raises:
        InputError: There are no such files, or a folder cannot be read.
    """
    if not path.exists():
        raise InputError(
            "no such file or folder of inputs", where=path, hint="--inputs takes a .npy or .npz file, or a folder"
        )
    if not path.is_dir():
        if path.suffix.lower() not in READABLE:
            raise InputError("expected a .npy or .npz file or an image", where=path)
        return [path]
    hint = None
    try:
        files = _readable(path)
        if not files:
            folders = class_folders(path)
            turns = itertools.zip_longest(*map(_readable, folders))
            files = [file for turn in turns for file in turn if file is not None]
            deeper = next((folder for folder in folders if any(map(_readable, class_folders(folder)))), None)
            hint = None if deeper is None else f"give one of its folders, such as {deeper}"
    except OSError as error:
        raise InputError(f"cannot read this folder: {error.strerror}", where=path) from error
    if not files:
        what = "no .npy file, .npz file or image in this folder or the folders in it"
        raise InputError(what, where=path, hint=hint)
    return files


def class_folders(path: Path) -> list[Path]:
    """Return the folders in a folder in the order of names, without hidden ones."""
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _readable(folder: Path) -> list[Path]:
    # macOS adds hidden files such as ._image.png to the images on other file systems.
    return sorted(
        file for file in folder.iterdir() if file.suffix.lower() in READABLE and not file.name.startswith(".")
    )


def read_file(file: Path, specs: Sequence[InputSpec] | None, dataset: str | None) -> tuple[Any, str]:
    """Return the inputs in one file as `read_inputs` does, and a description of what was done to an image, or ""."""
    kind = file.suffix.lower()
    if kind == ".npz":
        arrays = _read_archive(file)
        if any(array.ndim == 0 for array in arrays.values()) and specs is None:
            raise InputError("contains no arrays (N, ...)", where=file, hint="numpy.savez(path, name=array)")
        found = fitted(arrays, specs or _specs_in(arrays), file)
        return found if len(found) > 1 else next(iter(found.values())), ""
    if specs is not None and len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(
            f"expected {counted(len(specs), 'array')}, got one: {names}",
            where=file,
            hint=f"numpy.savez(path, {specs[0].name}=...)",
        )
    spec = None if specs is None else specs[0]
    if kind == ".npy":
        return _checked(_read_array(file), spec, file), ""
    if spec is None:
        raise _size_unknown(file)
    mean, std = normalization(dataset)
    if spec.layout is not None and len(mean) not in (1, spec.sample[0 if spec.layout == "chw" else -1]):
        # The data set has other images than the network takes.
        mean, std = _MEAN, _STD
    images, cropped = _read_image(file, spec, mean, std, dataset)
    form = "cropped and normalized" if cropped else "normalized"
    how = f", images {form} as (x - {_numbers(mean)}) / {_numbers(std)}" if spec.is_float else ""
    return images, how


def _read_archive(file: Path) -> dict[str, Array]:
    try:
        # Opened here because numpy does not close damaged files.
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
    # numpy returns the raw bytes of a member that is not an array.
    if not arrays or any(not isinstance(array, np.ndarray) for array in arrays.values()):
        raise InputError("contains no arrays (N, ...)", where=file, hint="numpy.savez(path, name=array)")
    return arrays


def _read_array(path: Path) -> Array:
    # This only checks the kind of file. The array is memory-mapped, so that only the inputs in use are read.
    open_file(path, "array", sys.maxsize).close()
    try:
        with np.errstate(all="raise"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise InputError(f"not a readable array: {one_line(error)}", where=path) from error
    if not isinstance(array, np.ndarray):
        raise InputError("not one array", where=path, hint="write it with numpy.save")
    return array


def _read_image(
    path: Path, spec: InputSpec, mean: Sequence[float], std: Sequence[float], dataset: str | None
) -> tuple[Array, bool]:
    """Return an image as one input, and whether it was cropped."""
    from irepdeploy.data import is_cropped
    from irepdeploy.data.decoding import decode_image, open_image

    if spec.layout is None:
        raise InputError(f"images have 1 or 3 channels, but the network takes {spec}", where=path, hint="give arrays")
    last = spec.layout == "hwc"
    channels, height, width = (spec.sample[2], *spec.sample[:2]) if last else spec.sample
    with open_image(path) as opened:
        # Images of the network's own size are usually trained on as they are, except by ImageNet's recipes.
        square = channels == 3 and height == width
        cropped = square and is_cropped(dataset, own_size=opened.size == (width, height))
        pixels = None if cropped else _resized(opened, channels, height, width)
    if pixels is None:
        pixels = decode_image(os.fspath(path), height, name=os.fspath(path)).astype(np.float32)
    image = normalized(pixels, mean, std) if spec.is_float else pixels.reshape(height, width, -1).transpose(2, 0, 1)
    return (image.transpose(1, 2, 0) if last else image).astype(spec.dtype)[None], cropped


def _resized(image: Any, channels: int, height: int, width: int) -> Array:
    from PIL import Image

    picture = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float32)


def normalization(dataset: str | None) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of the channels of a data set, or 0.45 and 0.25 if it is unknown."""
    from irepdeploy.data import dataset_facts

    data = dataset_facts(dataset)
    return (_MEAN, _STD) if data is None else (data.mean, data.std)


def normalized(pixels: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Convert pixels from 0 to 255, (H, W) or (H, W, C), to a network's input (C, H, W) with this mean and std."""
    scaled = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1) / np.float32(255)
    return np.ascontiguousarray((scaled - planes(mean)) / planes(std))


def planes(values: Sequence[float]) -> Array:
    """Return one float32 number per channel as an array (C, 1, 1)."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def _numbers(values: Sequence[float]) -> str:
    return (
        ", ".join(f"{value:g}" for value in values) if len(values) == 1 else f"[{', '.join(f'{v:g}' for v in values)}]"
    )
