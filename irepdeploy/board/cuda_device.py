"""The interface of a GPU as this package uses it; each CUDA binding implements it as a subclass."""

from __future__ import annotations

import abc
from typing import Any, Callable, Dict, Sequence

import numpy as np

from irepdeploy.errors import InputError, MissingError

__all__ = ["Cuda", "CudaGraph", "check_device", "version_text"]


class CudaGraph:
    """A captured CUDA graph. Calling it launches the graph; `end` releases it."""

    def __init__(self, launch: Callable[[], None], end: Callable[[], None]) -> None:
        self._launch = launch
        self.end = end

    def __call__(self) -> None:
        """Launch the graph."""
        self._launch()


class Cuda(abc.ABC):
    """A GPU. Pointers and streams are integers, as TensorRT expects them; sizes are in bytes.

    Attributes:
        waits: How the host waits for the device: "spin", or "auto" if CUDA decides.
    """

    name: str
    waits = "auto"

    def use(self) -> None:  # noqa: B027
        """Make this GPU the current device of this thread, which other code may have changed."""

    @abc.abstractmethod
    def malloc(self, size: int) -> int:
        """Allocate device memory and return its address."""

    @abc.abstractmethod
    def free(self, pointer: int) -> None:
        """Free device memory."""

    @abc.abstractmethod
    def host_array(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Allocate an array in page-locked host memory, which the device can access directly."""

    @abc.abstractmethod
    def free_host(self, array: np.ndarray) -> None:
        """Free an array from `host_array`, which must no longer be used."""

    @abc.abstractmethod
    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the device; `array` must stay alive until the stream is synchronized."""

    @abc.abstractmethod
    def to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Copy device memory into a contiguous array."""

    @abc.abstractmethod
    def stream(self) -> int:
        """Create a stream that does not synchronize with the default stream."""

    @abc.abstractmethod
    def end_stream(self, stream: int) -> None:
        """Destroy a stream."""

    @abc.abstractmethod
    def synchronize(self, stream: int) -> None:
        """Wait until all work on the stream is done."""

    @abc.abstractmethod
    def event(self) -> Any:
        """Create an event that records a timestamp."""

    @abc.abstractmethod
    def end_event(self, event: Any) -> None:
        """Destroy an event."""

    @abc.abstractmethod
    def record(self, event: Any, stream: int) -> None:
        """Record the event on the stream."""

    @abc.abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two recorded events."""

    @abc.abstractmethod
    def facts(self) -> Dict[str, Any]:
        """Return the name, compute_capability, multiprocessors, cuda_driver and cuda_runtime of the device."""

    def capture(self, stream: int, call: Callable[[], None]) -> CudaGraph:
        """Capture the work that `call` enqueues on the stream as one CUDA graph.

        After a failure, the stream accepts work again and the CUDA error is cleared.

        Raises:
            MissingError: The binding does not support CUDA graphs.
            RunError: `call` does something that cannot be captured.
            Exception: Any exception raised by `call`.
        """
        raise MissingError(f"{self.name} has no CUDA graphs", hint="pip install cuda-python")

    def close(self) -> None:  # noqa: B027
        """Release whatever the binding holds of the device."""


def check_device(device: int, count: int) -> None:
    """Raise InputError unless `device` is between 0 and ``count - 1``."""
    if not 0 <= device < count:
        raise InputError(f"no GPU {device}: CUDA sees {count}", where="device", hint="GPUs are numbered from 0")


def version_text(number: int) -> str:
    """Return a CUDA version number, such as 12040, as text: "12.4"."""
    return f"{number // 1000}.{number % 1000 // 10}"
