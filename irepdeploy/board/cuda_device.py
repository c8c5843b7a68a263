"""Cuda: one GPU, as this package uses it; every binding of CUDA is a subclass."""

from __future__ import annotations

import abc
from typing import Any, Callable, Dict, Sequence

import numpy as np

from irepdeploy.errors import InputError, MissingError

__all__ = ["Cuda", "CudaGraph", "check_device", "version_text"]


class CudaGraph:
    """A captured graph: a call launches it, `end` releases it."""

    def __init__(self, launch: Callable[[], None], end: Callable[[], None]) -> None:
        self._launch = launch
        self.end = end

    def __call__(self) -> None:
        """Launch it."""
        self._launch()


class Cuda(abc.ABC):
    """One GPU. Pointers and streams are integers, as TensorRT takes them; sizes are in bytes.

    Attributes:
        waits: How the host waits for the device: "spin", or "auto" where that is left to CUDA.
    """

    name: str
    waits = "auto"

    def use(self) -> None:  # noqa: B027
        """Make this GPU the current one of this thread, if there are several: others may have changed it."""

    @abc.abstractmethod
    def malloc(self, size: int) -> int:
        """Allocate device memory and return its address."""

    @abc.abstractmethod
    def free(self, pointer: int) -> None:
        """Free device memory."""

    @abc.abstractmethod
    def host_array(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """Allocate an array in page-locked memory, which the device copies without the help of the host."""

    @abc.abstractmethod
    def free_host(self, array: np.ndarray) -> None:
        """Free an array of `host_array`; nothing may use it any more."""

    @abc.abstractmethod
    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the device; keep `array` alive until the stream is synchronized."""

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
        """Wait for all work on the stream."""

    @abc.abstractmethod
    def event(self) -> Any:
        """Create an event that records its time."""

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
        """Return name, compute_capability, multiprocessors, cuda_driver and cuda_runtime of the device."""

    def capture(self, stream: int, call: Callable[[], None]) -> CudaGraph:
        """Capture the work that `call` puts on the stream as one CUDA graph.

        After a failure the stream accepts work again, and CUDA holds no error of it.

        Raises:
            MissingError: If the binding has no graphs.
            RunError: If `call` does something that cannot be captured.
            Exception: Whatever `call` raises.
        """
        raise MissingError(f"{self.name} has no CUDA graphs", hint="pip install cuda-python")

    def close(self) -> None:  # noqa: B027
        """Release the device, if the binding holds it."""


def check_device(device: int, count: int) -> None:
    """Raise InputError unless there is such a device."""
    if not 0 <= device < count:
        raise InputError(f"no GPU {device}: CUDA sees {count}", where="device", hint="GPUs are numbered from 0")


def version_text(number: int) -> str:
    """Return CUDA's version, such as "12.4", of its number, such as 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
