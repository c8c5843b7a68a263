"""Batches of a user's Dataset, DataLoader or other iterable, brought to the device."""

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

# Returns inputs and targets of a batch, as `Task.read` does.
Read = Callable[[Any], tuple[Any, Any]]

_HINT = "a Dataset, a DataLoader, a pair of tensors, or another iterable of batches"


def pair_of(read: Read, batch: Any, name: str) -> tuple[Any, Any]:
    """Return inputs and targets of a batch.

    Raises:
        InputError: `read` fails, or gives something else.
    """
    try:
        inputs, targets = read(batch)
    except IrepdeployError:
        raise
    except Exception as error:  # anything that a user's task raises
        raise InputError(f"reading a batch raised {type(error).__name__}: {one_line(error)}", where=name) from error
    return inputs, targets


class Stream:
    """Samples that are read batch by batch, every time anew.

    Samples of a map-style Dataset are put into batches here, those of an IterableDataset by a DataLoader of its own, in
    its order. A DataLoader is iterated as it is, with its own batches, order, workers and sampler; so is any other
    iterable of batches.

    Args:
        source: The data.
        read: Gives inputs and targets of a batch.
        name: Name of the data in errors, such as "train".
        dtype: Dtype of the inputs on the device.

    Raises:
        InputError: It cannot be iterated, or only once.
    """

    def __init__(self, source: Any, read: Read, name: str, dtype: torch.dtype = torch.float32) -> None:
        self.source = source
        self.name = name
        self._read = read
        self._dtype = dtype
        # Samples of a whole pass; None until it is known.
        self.samples: int | None = None
        self.by_index = has_index(source)
        sized: Any = source.dataset if isinstance(source, DataLoader) and has_index(source.dataset) else source
        if self.by_index or sized is not source:
            try:
                self.samples = len(sized)
            except Exception as error:  # anything that a user's data set raises
                raise InputError(f"its length raised {type(error).__name__}: {one_line(error)}", where=name) from error
        elif isinstance(source, Iterator):
            raise InputError("a generator gives its batches only once", where=name, hint=_HINT)
        elif not isinstance(source, Iterable):
            raise InputError(f"expected data, got {type(source).__name__}", where=name, hint=_HINT)

    def __len__(self) -> int:
        """Return the number of samples, 0 if it is not known."""
        return self.samples or 0

    def batches(self, size: int, chosen: list[list[int]] | None = None) -> Iterator[tuple[Tensor, Any]]:
        """Yield inputs and targets on the CPU; `size` and `chosen`, the samples of each batch, count by index only."""
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
        """Bring a batch to a device, images in channels-last format and the dtype of the network."""
        there = inputs.to(device, self._dtype, non_blocking=True)
        there = channels_last(there) if there.ndim == 4 else there
        return there, mapped(lambda tensor: tensor.to(device, non_blocking=True), targets)

    def in_order(self, size: int, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Any]]:
        """Yield all batches on a device; afterwards the number of samples is known."""
        samples = 0
        for inputs, targets in self.batches(size):
            samples += len(inputs)
            yield self.on(torch.device(device), inputs, targets)
        if not samples:
            raise InputError("no batch: the data ended at once", where=self.name)
        self.samples = samples

    def of(self, source: Any) -> Stream:
        """Return a stream of another source that is read alike."""
        return Stream(source, self._read, self.name, self._dtype)

    def seed(self, seed: int) -> None:
        """Seed everything that may order or augment the samples: the generators of torch, Python, numpy and its own."""
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
    """Iterate over training batches of a stream; each iteration is one epoch.

    Everything random is seeded at the start of an epoch from `generator`, so that a run resumes to the same batches and
    all processes see the same. Batches with fewer than two samples per process are left out, since batch statistics
    need two.

    Args:
        stream: The samples.
        batch_size: Samples per batch, over all processes; not of a DataLoader.
        generator: CPU generator, in the same state in every process.
        check: Gets the targets of each batch of the first epoch, on the CPU.
        change: Augments a batch on the device, drawing from torch's generator.
        device: Device of the batches.
        rank: Index of this process; it takes every `ranks`-th sample of a batch.
        ranks: Number of processes.
        upright: Whether each image is higher than wide, of samples by index: batches have one kind, but for the last,
            so that less of them is padding.
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
        """Return the number of batches of an epoch, as far as it is known; 0 if it is not."""
        if self._steps is not None:
            return self._steps
        if self._stream.by_index:
            return -(-len(self._stream) // self._batch_size)
        try:
            return len(self._stream.source)
        except (TypeError, AttributeError):
            return 0

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Yield inputs and targets on the device."""
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
                "no batch to train on: the data ended at once, or no batch has two samples per process",
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
    """Cut an order into batches, each of one kind of images as far as there are kinds; what is left comes last."""
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
    """Iterates, and names the data where the user's code raises."""

    def __init__(self, source: Iterable[Any], name: str) -> None:
        self._source, self._name = source, name

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._source
        except IrepdeployError:
            raise
        except Exception as error:  # anything that a user's data set raises
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"reading a batch raised {type(error).__name__}: {one_line(_reason(error))}", where=self._name
            ) from error


def _collated(samples: list[Any]) -> Any:
    """Make a batch as torch does; images with the objects in them may have several sizes."""
    first = samples[0]
    if isinstance(first, tuple | list) and len(first) == 2 and isinstance(first[1], Target):
        return collate(samples)
    return default_collate(samples)


def _reason(error: Exception) -> object:
    """Return the last lines of an error of a worker process, whose text is its whole traceback."""
    lines = str(error).rstrip().splitlines()
    inner = [number for number, line in enumerate(lines) if line.startswith("  ")]
    return "\n".join(lines[inner[-1] + 1 :]) if inner and "Original Traceback" in str(error) else error


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def has_index(source: Any) -> bool:
    """Return whether samples are had by index: a map-style Dataset, or something like one."""
    if isinstance(source, DataLoader | IterableDataset | Mapping | Tensor | str | bytes):
        return False
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def _in_order(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]
