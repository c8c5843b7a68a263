"""Streams of batches from a user's Dataset, DataLoader or other iterable, brought to the device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate
from torch.utils.data.distributed import DistributedSampler

from irepdeploy.data.nested import mapped
from irepdeploy.detect.target import Target, collate
from irepdeploy.errors import InputError, IrepdeployError, one_line
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.runtime.memory_format import channels_last

__all__ = ["Read", "Stream", "StreamLoader", "has_index", "pair_of"]

# A function that returns the inputs and targets of a batch, like `Task.read`.
Read = Callable[[Any], tuple[Any, Any]]

_HINT = "a Dataset, a DataLoader, a pair of tensors, or another iterable of batches"


def pair_of(read: Read, batch: Any, name: str) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch.

    Raises:
        InputError: `read` raises an exception, or does not return a pair.
    """
    try:
        inputs, targets = read(batch)
    except IrepdeployError:
        raise
    except Exception as error:  # a user's task can raise anything
        raise InputError(f"reading a batch raised {type(error).__name__}: {one_line(error)}", where=name) from error
    return inputs, targets


class Stream:
    """Samples that are read batch by batch, again in each pass.

    The samples of a map-style Dataset are batched by this class. An IterableDataset is batched by a DataLoader, in its
    own order. A DataLoader is iterated directly, with its own batches, order, workers and sampler, and so is any other
    iterable of batches.

    Args:
        source: Data of the user.
        read: Function that returns the inputs and targets of a batch.
        name: Name of the data for error messages, such as "train".
        dtype: Dtype of the inputs on the device.

    Raises:
        InputError: The source cannot be iterated, or only once.
    """

    def __init__(self, source: Any, read: Read, name: str, dtype: torch.dtype = torch.float32) -> None:
        self.source = source
        self.name = name
        self._read = read
        self._dtype = dtype
        # Number of samples in a whole pass; None as long as it is unknown.
        self.samples: int | None = None
        self.by_index = has_index(source)
        sized: Any = source.dataset if isinstance(source, DataLoader) and has_index(source.dataset) else source
        if self.by_index or sized is not source:
            try:
                self.samples = len(sized)
            except Exception as error:  # a user's data set can raise anything
                raise InputError(f"its length raised {type(error).__name__}: {one_line(error)}", where=name) from error
        elif isinstance(source, Iterator):
            raise InputError("a generator can be iterated only once", where=name, hint=_HINT)
        elif not isinstance(source, Iterable):
            raise InputError(f"expected data, got {type(source).__name__}", where=name, hint=_HINT)

    def __len__(self) -> int:
        """Return the number of samples, or 0 if it is unknown."""
        return self.samples or 0

    def batches(self, size: int, chosen: list[list[int]] | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield the inputs and targets of each batch on the CPU.

        Args:
            size: Samples per batch; ignored if the source yields batches itself.
            chosen: Indices of the samples of each batch, for a source with indices. Default: all in order.

        Raises:
            InputError: The source or `read` raises an exception, or the inputs are not a tensor.
        """
        source = self.source
        if self.by_index:
            order = chosen or _in_order(len(source), size)
            source = DataLoader(source, batch_sampler=order, collate_fn=_collated)
        elif isinstance(source, IterableDataset):
            source = DataLoader(source, batch_size=size, collate_fn=_collated)
        with_errors = _Guarded(source, self.name)
        for batch in with_errors:
            inputs, targets = (_tensor(part) for part in pair_of(self._read, batch, self.name))
            if not isinstance(inputs, Tensor):
                raise InputError(f"expected a tensor of inputs, got {type(inputs).__name__}", where=self.name)
            yield inputs, targets

    def on(self, device: torch.device, inputs: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """Move a batch to a device, converting inputs to the stream's dtype and images to channels-last format."""
        there = inputs.to(device, self._dtype, non_blocking=True)
        there = channels_last(there) if there.ndim == 4 else there
        return there, mapped(lambda tensor: tensor.to(device, non_blocking=True), targets)

    def in_order(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Any]]:
        """Yield all batches in order, on a device. Afterwards the number of samples is known.

        Raises:
            InputError: There is no batch, or reading fails.
        """
        samples = 0
        for inputs, targets in self.batches(size):
            samples += len(inputs)
            yield self.on(torch.device(device), inputs, targets)
        if not samples:
            raise InputError("no batch: the data are empty", where=self.name)
        self.samples = samples

    def of(self, source: Any) -> Stream:
        """Return a stream of another source with the same settings."""
        return Stream(source, self._read, self.name, self._dtype)

    def seed(self, seed: int) -> None:
        """Seed everything that may order or augment samples: torch, Python, numpy and the DataLoader's generators."""
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if isinstance(self.source, DataLoader):
            inner = getattr(self.source.batch_sampler, "sampler", None)
            for part in (self.source, self.source.sampler, inner):
                generator = getattr(part, "generator", None)
                if isinstance(generator, torch.Generator):
                    generator.manual_seed(seed)

    @property
    def divided(self) -> bool:
        """Whether a DistributedSampler divides the samples among processes."""
        return isinstance(self.source, DataLoader) and isinstance(self.source.sampler, DistributedSampler)


class StreamLoader:
    """Loader of training batches from a stream. Each iteration is one epoch.

    All random generators are seeded from `generator` at the start of an epoch, so that a resumed run gets the same
    batches and all processes see the same ones. Batches with fewer than two samples per process are skipped, because
    batch statistics need at least two.

    Args:
        stream: Training samples.
        batch_size: Samples per batch, over all processes; ignored if the source yields batches itself.
        generator: CPU generator, in the same state in every process.
        check: Function that receives the targets of each batch of the first epoch, on the CPU.
        change: Function that augments a batch on the device, using torch's global generator.
        device: Device of the batches.
        rank: Index of this process, which takes every `ranks`-th sample of a batch.
        ranks: Number of processes.
        upright: Whether each image is taller than wide, for samples with indices. Except for the last ones, batches
            then contain only one kind, to reduce padding.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        generator: torch.Generator,
        check: Callable[[Any], None] = lambda targets: None,
        *,
        change: Callable[[Tensor, Any], tuple[Tensor, Any]] = lambda inputs, targets: (inputs, targets),
        device: torch.device | str = "cpu",
        rank: int = 0,
        ranks: int = 1,
        upright: Sequence[bool] = (),
    ) -> None:
        self.epoch = 0
        self._upright = upright
        self._change = change
        self._stream = stream
        self._batch_size = batch_size
        self._generator = generator
        self._check: Callable[[Any], None] | None = check
        self._device = torch.device(device)
        self._rank, self._ranks = rank, ranks
        self._steps: int | None = None

    def __len__(self) -> int:
        """Return the number of batches per epoch, or 0 if it is unknown."""
        if self._steps is not None:
            return self._steps
        if self._stream.by_index:
            return -(-len(self._stream) // self._batch_size)
        try:
            return len(self._stream.source)
        except (TypeError, AttributeError):
            return 0

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield the inputs and targets of each batch on the device."""
        stream, ranks = self._stream, self._ranks
        stream.seed(int(torch.randint(2**31, (), generator=self._generator)))
        self._tell_epoch()
        chosen, whole = None, ranks == 1 or stream.divided
        if stream.by_index:
            order = torch.randperm(len(stream), generator=self._generator).tolist()
            parts = _parts(order, self._batch_size, self._upright)
            chosen, whole = [part[self._rank :: ranks] for part in parts if len(part) >= 2 * ranks], True
        steps = 0
        for inputs, targets in stream.batches(self._batch_size, chosen) if chosen != [] else ():
            if len(inputs) < (2 if whole else 2 * ranks):
                continue
            if self._check is not None:
                self._check(targets)
            if not whole:
                inputs, targets = (mapped(self._mine, part) for part in (inputs, targets))
            steps += 1
            yield self._change(*stream.on(self._device, inputs, targets))
        if not steps:
            raise InputError(
                "no batch to train on: the data are empty, or no batch has two samples per process",
                where=stream.name,
            )
        self._steps, self._check = steps, None

    def _mine(self, tensor: Tensor) -> Tensor:
        return tensor[self._rank :: self._ranks]

    def _tell_epoch(self) -> None:
        source = self._stream.source
        for part in (source, *(getattr(source, name, None) for name in ("sampler", "batch_sampler", "dataset"))):
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(self.epoch)


def _parts(order: list[int], size: int, upright: Sequence[bool]) -> list[list[int]]:
    """Split an order of samples into batches, each of one kind of images if there are kinds; the rest comes last."""
    whole: list[list[int]] = []
    kinds: tuple[list[int], list[int]] = [], []
    for sample in order:
        mine = kinds[bool(upright) and upright[sample]]
        mine.append(sample)
        if len(mine) == size:
            whole.append(mine.copy())
            mine.clear()
    left = kinds[0] + kinds[1]
    return whole + [left[start : start + size] for start in range(0, len(left), size)]


class _Guarded:
    """An iterable that converts exceptions of the user's code to errors that name the data."""

    def __init__(self, source: Iterable[Any], name: str) -> None:
        self._source, self._name = source, name

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._source
        except IrepdeployError:
            raise
        except Exception as error:  # a user's data set can raise anything
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"reading a batch raised {type(error).__name__}: {one_line(_reason(error))}", where=self._name
            ) from error


def _collated(samples: list[Any]) -> Any:
    """Collate samples as torch does, or with padding if they are images with objects."""
    first = samples[0]
    if isinstance(first, tuple | list) and len(first) == 2 and isinstance(first[1], Target):
        return collate(samples)
    return default_collate(samples)


def _reason(error: Exception) -> object:
    """Return the last lines of a worker process's error, whose text contains the whole traceback."""
    lines = str(error).rstrip().splitlines()
    inner = [number for number, line in enumerate(lines) if line.startswith("  ")]
    return "\n".join(lines[inner[-1] + 1 :]) if inner and "Original Traceback" in str(error) else error


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def has_index(source: Any) -> bool:
    """Return whether samples can be accessed by index, as in a map-style Dataset."""
    if isinstance(source, DataLoader | IterableDataset | Mapping | Tensor | str | bytes):
        return False
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def _in_order(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]
