"""Images that are decoded when they are needed, by worker processes that work ahead."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.decoding import decode_image
from irepdeploy.data.pixels import Pixels, normalise
from irepdeploy.errors import InputError, RunError

__all__ = ["ImageFiles", "ImageSource"]

_BATCH = 64
_AHEAD = 4


class ImageSource(Protocol):
    """Where encoded images come from; worker processes get a copy."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> IO[bytes] | str:
        """The file, or its path."""
        ...

    def name(self, index: int) -> str:
        """What a message calls it."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images of a source, as (3, size, size).

    Args:
        indices: which images of the source these are, in this order.
        mean, std: per channel, of pixels in [0, 1].
        workers: processes that decode; 0: this one does. The result does not depend on it.
    """

    source: ImageSource
    indices: np.ndarray[Any, Any]
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    workers: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        chosen = np.arange(len(self))[index if isinstance(index, slice) else index.cpu().numpy()]
        return self.normalise(next(self.decode([chosen.tolist()], workers=0)))

    def to(self, device: torch.device | str, /) -> Pixels:
        """All images decoded, as bytes in the memory of a device."""
        chosen = [list(part) for part in np.array_split(np.arange(len(self)), -(-len(self) // _BATCH))]
        return Pixels(torch.cat(list(self.decode(chosen, device))), self.mean, self.std)

    def normalise(self, values: Tensor) -> Tensor:
        """(x / 255 - mean) / std of pixels (n, 3, H, W), as float32 on their device."""
        return normalise(values, self.mean, self.std)

    def decode(
        self,
        batches: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
        *,
        area: float = 1.0,
        seeds: Sequence[Sequence[int]] | None = None,
        workers: int | None = None,
    ) -> Iterator[Tensor]:
        """The batches of these images as (n, 3, size, size) uint8, channels last, on a device.

        Args:
            batches: indices of each batch.
            area: smallest share of an image that a random crop has.
            seeds: one for each image of each batch; without them the centre is taken.
            workers: processes, where others are wanted than usually.

        Raises:
            InputError: an image is damaged; its file is named.
            RunError: a worker process was killed.
        """
        from torch.utils.data import DataLoader

        on_gpu = torch.device(device).type == "cuda"
        workers = min(self.workers if workers is None else workers, len(batches))
        rows = [self.indices[list(batch)] for batch in batches]
        with warnings.catch_warnings():
            # It advises against more workers than processors, which whoever asks for them has chosen.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader: DataLoader[Any] = DataLoader(
                _Decoder(self.source, rows, self.size, area, seeds),  # type: ignore[arg-type]  # length and items do
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                prefetch_factor=_AHEAD if workers else None,
                worker_init_fn=_leave_interrupts if workers else None,
                pin_memory=on_gpu,
                # Or the loader would draw from the global generator, which is not its own.
                generator=torch.Generator(),
            )
            decoded = iter(loader)
        try:
            for pixels in decoded:
                if isinstance(pixels, InputError):
                    raise pixels
                yield pixels.to(device, non_blocking=on_gpu).permute(0, 3, 1, 2)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            hint = "most often memory ran out: fewer data.options.workers, or more shared memory (/dev/shm)"
            raise RunError(f"a process that decodes images died: {error}", hint=hint) from error
        finally:
            # The error's traceback holds this frame: whoever keeps it would keep the processes, or end them late and
            # by force when it is garbage.
            pixels = decoded = None  # type: ignore[assignment]  # neither is used again


@dataclass(frozen=True)
class _Decoder:
    """Whole batches by their number: what worker processes get."""

    source: ImageSource
    batches: Sequence[np.ndarray[Any, Any]]
    size: int
    area: float
    seeds: Sequence[Sequence[int]] | None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        """(n, size, size, 3) uint8, or the error: raised in a worker, it would lose its class and where it arose."""
        chosen = self.batches[number].tolist()
        pixels = np.empty((len(chosen), self.size, self.size, 3), dtype=np.uint8)
        seeds = [None] * len(chosen) if self.seeds is None else self.seeds[number]
        try:
            for row, (index, seed) in enumerate(zip(chosen, seeds, strict=True)):
                name = self.source.name(index)
                pixels[row] = decode_image(self.source.open(index), self.size, area=self.area, seed=seed, name=name)
        except InputError as error:
            return error
        return pixels


def _as_it_is(value: Any) -> Any:
    return value if isinstance(value, InputError) else torch.from_numpy(value)


def _leave_interrupts(worker: int) -> None:
    # Ctrl-C reaches the whole group of processes; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
