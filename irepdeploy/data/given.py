"""Conversion of a caller's data: arrays in memory become a Split, everything else a Stream."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from irepdeploy.data.dataset import Split
from irepdeploy.data.pixels import Pixels
from irepdeploy.data.stream import Read, Stream, has_index, pair_of
from irepdeploy.errors import InputError, one_line
from irepdeploy.limits import memory_bytes

__all__ = ["check_disjoint", "held", "opened"]

# Search-validation images may fill this fraction, 1 / _SHARE, of a device's memory.
_SHARE = 4


def opened(data: Any, read: Read, name: str, dtype: torch.dtype = torch.float32) -> Split | Stream:
    """Convert data to a Split if it is a pair of arrays, a dictionary of arrays or a TensorDataset, else to a Stream.

    Args:
        data: Data of the caller.
        read: Function that returns the inputs and targets of a batch.
        name: Name of the data, for error messages.
        dtype: Dtype of the inputs.

    Raises:
        InputError: The data are empty, have different numbers of inputs and targets, or cannot be iterated.
    """
    if isinstance(data, Split):
        return data
    pair: Any = data.tensors if type(data) is TensorDataset else data
    arrays = list(pair.values()) if isinstance(pair, Mapping) else pair if isinstance(pair, tuple | list) else ()
    if len(arrays) >= 2 and all(isinstance(each, Tensor | np.ndarray) for each in arrays):
        parts = pair_of(read, pair, name)
        try:
            inputs, targets = (torch.as_tensor(each) for each in parts)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"expected arrays of numbers: {one_line(error)}", where=name) from error
        if not inputs.ndim or not targets.ndim:
            raise InputError("expected arrays with a row for each sample, got a single number", where=name)
        if len(inputs) != len(targets):
            raise InputError(f"{len(inputs)} inputs for {len(targets)} targets", where=name)
        found: Split | Stream = Split(inputs.to(dtype), targets)
    else:
        found = Stream(data, read, name, dtype)
    if isinstance(found, Split) and not len(found):
        raise InputError("no samples", where=name)
    return found


def held(data: Split | Stream, batch_size: int, device: torch.device) -> Split | Stream:
    """Load a stream onto the device as a Split, if its samples have one size and fit into a quarter of the memory.

    Otherwise return the stream itself, whose number of samples is then known.
    """
    if isinstance(data, Split):
        return data
    room = (torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()) // _SHARE
    batches: list[tuple[Tensor, Tensor]] | None = []
    for inputs, targets in data.in_order(batch_size, device):
        if batches is None:
            continue
        fits = isinstance(targets, Tensor) and len(targets) == len(inputs)
        if not fits and data.by_index:
            # The number of samples is already known.
            return data
        if fits and batches:
            fits = (inputs.shape[1:], targets.shape[1:]) == (batches[0][0].shape[1:], batches[0][1].shape[1:])
        room -= inputs.nbytes + targets.nbytes if fits else 0
        if not fits or room < 0:
            batches = None
        else:
            batches.append((inputs, targets))
    if batches is None:
        return data
    images = torch.cat([inputs for inputs, _ in batches])
    return Split(images, torch.cat([targets for _, targets in batches]))


def check_disjoint(train: Any, val: Any, opened_train: Split | Stream, opened_val: Split | Stream) -> None:
    """Raise InputError if search-validation images are also training images, as far as this can be detected.

    Detected are identical objects, overlapping subsets of one Dataset (also inside a DataLoader), and equal images in
    memory.
    """
    shared = 0
    (ours, mine), (theirs, yours) = _origin(train), _origin(val)
    if train is val:
        shared = len(opened_val)
    elif ours is theirs and mine is not None and yours is not None:
        shared = len(set(mine) & set(yours))
    elif isinstance(opened_train, Split) and isinstance(opened_val, Split):
        images, others = _pixels(opened_train), _pixels(opened_val)
        if images is not None and others is not None and images.shape[1:] == others.shape[1:]:
            shared = _shared(images, others)
    if shared or train is val:
        raise InputError(
            f"{shared} of {len(opened_val)} images are also in train: their score would be meaningless",
            where="val",
            hint="hold them out, or pass allow_shared=True in Python if this is intended",
        )


def _origin(data: Any) -> tuple[Any, Sequence[int] | None]:
    """Return the Dataset behind a loader or subsets, and the indices of its samples; None if it has no indices."""
    found: Any = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(found, Subset):
        base, chosen = _origin(found.dataset)
        return base, None if chosen is None else [chosen[index] for index in found.indices]
    return found, range(len(found)) if has_index(found) else None


def _pixels(data: Split) -> Tensor | None:
    images = data.images.values if isinstance(data.images, Pixels) else data.images
    return images if isinstance(images, Tensor) else None


def _shared(ours: Tensor, theirs: Tensor) -> int:
    """Return the number of images of `theirs` that are also in `ours`, comparing checksums first and then values."""
    known: dict[int, list[int]] = {}
    for index, image in enumerate(ours):
        known.setdefault(_checksum(image), []).append(index)
    return sum(any(torch.equal(image, ours[index]) for index in known.get(_checksum(image), ())) for image in theirs)


def _checksum(image: Tensor) -> int:
    return zlib.crc32(image.cpu().contiguous().view(torch.uint8).numpy().data)
