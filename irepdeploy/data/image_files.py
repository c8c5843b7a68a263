"""Images that are decoded on access by prefetching worker processes."""

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
from irepdeploy.data.pixels import Pixels, normalize
from irepdeploy.errors import InputError, RunError, one_line

__all__ = ["ImageFiles", "ImageSource"]

_BATCH = 64
_AHEAD = 4


class ImageSource(Protocol):
    """A source of encoded images. Each worker process gets a copy."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> IO[bytes] | str:
        """Return the encoded image or its path."""
        ...

    def name(self, index: int) -> str:
        """Return the name of the image for error messages."""
        ...


@dataclass(frozen=True)
class ImageFiles:
    """The images of a source, cropped and resized to (3, size, size), or in their own common size.

    Args:
        source: Source of the encoded images.
        indices: Indices of the images in the source, in this order.
        size: Side of a square to crop and resize to; or the height and width of all images, which are then not resized.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
        workers: Number of decoding processes; 0 decodes in this process. The result does not depend on it.
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
        """The height and width of the decoded images."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        chosen = np.arange(len(self))[index if isinstance(index, slice) else index.cpu().numpy()]
        return self.normalize(next(self.decode([chosen.tolist()], workers=0)))

    def to(self, device: torch.device | str, /) -> Pixels:
        """Decode all images and move them to a device as bytes."""
        chosen = [list(part) for part in np.array_split(np.arange(len(self)), -(-len(self) // _BATCH))]
        return Pixels(torch.cat(list(self.decode(chosen, device))), self.mean, self.std)

    def normalize(self, values: Tensor) -> Tensor:
        """Normalize pixels (n, 3, H, W) to float32, (x / 255 - mean) / std, on their device."""
        return normalize(values, self.mean, self.std)

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

        Args:
            batches: Indices of the images of each batch.
            device: Device of the pixels.
            area: Minimum fraction of the image covered by a random crop.
            seeds: Seeds of the random crops, one per image; None for the centre crop, or the whole image if it is not
                resized.
            workers: Number of decoding processes. Default: that of the object.

        Raises:
            InputError: An image is damaged or has the wrong size; the message names the file.
            RunError: A decoding process died.
        """
        from torch.utils.data import DataLoader

        on_gpu = torch.device(device).type == "cuda"
        workers = min(self.workers if workers is None else workers, len(batches))
        rows = [self.indices[list(batch)] for batch in batches]
        with warnings.catch_warnings():
            # The loader warns about more workers than processors, but the user has asked for them.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader: DataLoader[Any] = DataLoader(
                _Decoder(self.source, rows, self.size, area, seeds),  # type: ignore[arg-type]  # length and items do
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                prefetch_factor=_AHEAD if workers else None,
                worker_init_fn=_leave_interrupts if workers else None,
                pin_memory=on_gpu,
                # Otherwise the loader would draw from the global generator.
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
            # The traceback of an error references this frame, which would keep the processes alive.
            pixels = decoded = None  # type: ignore[assignment]  # neither is used again


@dataclass(frozen=True)
class _Decoder:
    """The batches, by number, as sent to worker processes."""

    source: ImageSource
    batches: Sequence[np.ndarray[Any, Any]]
    size: int | tuple[int, int]
    area: float
    seeds: Sequence[Sequence[int]] | None

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        """Return pixels (n, height, width, 3) uint8, or an error, which would lose its class if raised in a worker."""
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
    # Ctrl-C and closing the terminal reach the whole process group; ignore them, as the main process stops the workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
