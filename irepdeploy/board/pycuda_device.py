"""Access to a GPU through pycuda."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Iterator, Sequence

import numpy as np

from irepdeploy.board.cuda_device import Cuda, check_device, version_text
from irepdeploy.errors import MissingError, RunError, one_line

__all__ = ["open_pycuda"]

_NON_BLOCKING = 1


def open_pycuda(driver: Any, device: int) -> Cuda:
    """Open a device; `driver` is the module ``pycuda.driver``."""
    return _PyCuda(driver, device)


class _PyCuda(Cuda):
    """A GPU through pycuda, on the device's primary context, which TensorRT and torch use as well."""

    name = "pycuda"

    def __init__(self, driver: Any, device: int) -> None:
        self._driver = driver
        try:
            driver.init()
            check_device(device, driver.Device.count())
            self._device = driver.Device(device)
            self._context = self._device.retain_primary_context()
            self._context.push()
        except driver.Error as error:
            raise MissingError(f"no usable GPU: {one_line(error)}", hint="irepdeploy doctor") from error
        self._memory: Dict[int, Any] = {}
        self._streams: Dict[int, Any] = {}

    def host_array(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        with self._mapped():
            return self._driver.pagelocked_empty(tuple(shape), dtype)

    def free_host(self, array: np.ndarray) -> None:
        # The array object owns its memory.
        return

    def malloc(self, size: int) -> int:
        try:
            memory = self._driver.mem_alloc(max(size, 1))
        except self._driver.MemoryError as error:
            raise RunError("the GPU is out of memory", hint="use a smaller batch") from error
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, pointer: int) -> None:
        self._memory.pop(pointer).free()

    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        with self._mapped():
            self._driver.memcpy_htod_async(pointer, array, self._streams[stream])

    def to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        with self._mapped():
            self._driver.memcpy_dtoh_async(array, pointer, self._streams[stream])

    def stream(self) -> int:
        # A blocking stream would wait for the default stream.
        with self._mapped():
            stream = self._driver.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return stream.handle

    def end_stream(self, stream: int) -> None:
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        with self._mapped():
            self._streams[stream].synchronize()

    def event(self) -> Any:
        with self._mapped():
            return self._driver.Event()

    def end_event(self, event: Any) -> None:
        # The Python object owns the event.
        return

    def record(self, event: Any, stream: int) -> None:
        with self._mapped():
            event.record(self._streams[stream])

    def elapsed_ms(self, start: Any, end: Any) -> float:
        with self._mapped():
            end.synchronize()
            return end.time_since(start)

    def facts(self) -> Dict[str, Any]:
        major, minor = self._device.compute_capability()
        return {
            "name": self._device.name(),
            "compute_capability": f"{major}.{minor}",
            "multiprocessors": self._device.get_attribute(self._driver.device_attribute.MULTIPROCESSOR_COUNT),
            "cuda_driver": version_text(self._driver.get_driver_version()),
            "cuda_runtime": ".".join(map(str, self._driver.get_version()[:2])),
        }

    def close(self) -> None:
        self._context.pop()

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise RunError(f"CUDA failed: {one_line(error)}", hint="irepdeploy doctor") from error
