"""Images that are decoded on access, with prefetching worker processes."""

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
from irepdeploy.errors import InputError, RunError, one_line

__all__ = ["ImageFiles", "ImageSource"]

_BATCH = 64
_AHEAD = 4


class ImageSource(Protocol):
    """Source of encoded images; each worker process gets a copy."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> IO[bytes] | str:
        """Return the encoded image, or its path."""
        ...

    def name(self, index: int) -> str:
        """Return the name of the image in error messages."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """Images of a source, cropped and resized to (3, size, size), or as they are.

    Args:
        indices: Images of the source, in this order.
        size: Side of the square; or height and width that all images have, so that they stay as they are.
        mean: Mean of each channel, for pixels in [0, 1].
        workers: Number of decoding processes; 0 decodes in this process. It does not change the result.
    """

    source: ImageSource
    indices: np.ndarray[Any, Any]
    size: int | tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    workers: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the images that it gives."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        chosen = np.arange(len(self))[index if isinstance(index, slice) else index.cpu().numpy()]
        return self.normalise(next(self.decode([chosen.tolist()], workers=0)))

    def to(self, device: torch.device | str, /) -> Pixels:
        """Decode all images and move them to a device as bytes."""
        chosen = [list(part) for part in np.array_split(np.arange(len(self)), -(-len(self) // _BATCH))]
        return Pixels(torch.cat(list(self.decode(chosen, device))), self.mean, self.std)

    def normalise(self, values: Tensor) -> Tensor:
        """Normalise pixels (n, 3, H, W) to float32 (x / 255 - mean) / std on their device."""
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
        """Decode batches of images to uint8 pixels (n, 3, height, width) in channels-last format.

        `seeds` give a random crop of each image, of at least the fraction `area`; without seeds it is the centre crop,
        or the whole image where it stays as it is.
        An error names the file of a damaged image.
        """
        from torch.utils.data import DataLoader

        on_gpu = torch.device(device).type == "cuda"
        workers = min(self.workers if workers is None else workers, len(batches))
        rows = [self.indices[list(batch)] for batch in batches]
        with warnings.catch_warnings():
            # It warns about more workers than processors, which the user has asked for.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader: DataLoader[Any] = DataLoader(
                _Decoder(self.source, rows, self.size, area, seeds),  # type: ignore[arg-type]  # length and items do
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                prefetch_factor=_AHEAD if workers else None,
                worker_init_fn=_leave_interrupts if workers else None,
                pin_memory=on_gpu,
                # Otherwise the loader draws from the global generator.
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
            hint = "usually out of memory: use fewer data.options.workers or more shared memory (/dev/shm)"
            raise RunError(f"an image decoding process died: {one_line(error)}", hint=hint) from error
        finally:
            # The traceback of an error holds this frame, and would keep the processes alive until it is collected.
            pixels = decoded = None  # type: ignore[assignment]  # neither is used again


@dataclass(frozen=True)
class _Decoder:
    """Batches by number, as sent to worker processes."""

    source: ImageSource
    batches: Sequence[np.ndarray[Any, Any]]
    size: int | tuple[int, int]
    area: float
    seeds: Sequence[Sequence[int]] | None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        """Return (n, height, width, 3) uint8, or the error, which would lose its class if raised in a worker."""
        chosen = self.batches[number].tolist()
        sides = (self.size, self.size) if isinstance(self.size, int) else self.size
        pixels = np.empty((len(chosen), *sides, 3), dtype=np.uint8)
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
    # Ctrl-C and the end of a terminal reach the whole process group; the main process stops the workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
