"""CUDA buffers, streams, events and graphs, through whichever binding is installed.

pycuda is tried first, then cuda-python, then ctypes on libcudart, which is present wherever TensorRT is; `Cuda.name`
names the one in use. pycuda has no graphs.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import ctypes.util
import importlib
import re
from typing import Any, Callable, Dict, Iterator, Optional

import numpy as np

from irepdeploy.board.cuda_calls import CtypesCalls, PythonCalls, Size
from irepdeploy.board.jetpack import TEGRA_RELEASE
from irepdeploy.errors import InputError, MissingError, RunError, one_line

__all__ = ["BACKENDS", "Cuda", "device_facts", "open_cuda"]

BACKENDS = ("pycuda", "cuda-python", "ctypes")

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_NON_BLOCKING = 1
_THREAD_LOCAL = 1
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
# Newest first; the unversioned name exists only where headers are installed.
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so.10.2", "libcudart.so")


class Cuda(abc.ABC):
    """One GPU. Pointers and streams are integers, as TensorRT takes them; sizes are in bytes."""

    name: str

    @abc.abstractmethod
    def malloc(self, size: int) -> int:
        """Allocate device memory and return its address."""

    @abc.abstractmethod
    def free(self, pointer: int) -> None:
        """Free device memory."""

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
    def record(self, event: Any, stream: int) -> None:
        """Record the event on the stream."""

    @abc.abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Return the milliseconds between two recorded events."""

    @abc.abstractmethod
    def facts(self) -> Dict[str, Any]:
        """Return name, compute_capability, multiprocessors, cuda_driver and cuda_runtime of the device."""

    def capture(self, stream: int, call: Callable[[], None]) -> Callable[[], None]:
        """Capture the work that `call` puts on the stream and return a function that launches it as one CUDA graph.

        Raises:
            MissingError: If the binding has no graphs.
            RunError: If `call` does something that cannot be captured.
        """
        raise MissingError(f"{self.name} has no CUDA graphs", hint="pip uninstall pycuda, or pip install cuda-python")

    def close(self) -> None:  # noqa: B027
        """Release the device, if the binding holds it."""


def open_cuda(device: int = 0, *, backend: Optional[str] = None, library: Any = None) -> Cuda:
    """Open a device with the first installed binding."""
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"unknown CUDA binding {backend!r}", where="backend", hint="one of " + ", ".join(BACKENDS))
    if library is not None:
        return _Runtime(CtypesCalls(library), device)
    for name in BACKENDS if backend is None else (backend,):
        made = _open(name, device)
        if made is not None:
            return made
    raise MissingError(f"{backend} is not installed", hint=f"pip install {backend}")


def device_facts(device: int = 0) -> Dict[str, Any]:
    """Return `Cuda.facts` and the driver's version, or the reason why there is no GPU. Never raises."""
    facts: Dict[str, Any] = {"driver": _driver()}
    try:
        facts.update(open_cuda(device, backend="ctypes").facts())
    except (MissingError, InputError, RunError) as error:
        facts["gpu"] = "none: " + error.what
    return facts


def _open(name: str, device: int) -> Optional[Cuda]:
    if name == "pycuda":
        with contextlib.suppress(ImportError):
            return _PyCuda(importlib.import_module("pycuda.driver"), device)
        return None
    if name == "cuda-python":
        for module in ("cuda.bindings.runtime", "cuda.cudart"):
            with contextlib.suppress(ImportError):
                return _Runtime(PythonCalls(importlib.import_module(module)), device)
        return None
    return _Runtime(CtypesCalls(_libcudart()), device)


def _libcudart() -> Any:
    found = ctypes.util.find_library("cudart")
    for name in _LIBRARIES + ((found,) if found else ()):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise MissingError("no libcudart here", hint="it comes with CUDA, JetPack, or pip install nvidia-cuda-runtime")


def _driver() -> Optional[str]:
    for path, pattern in (
        ("/proc/driver/nvidia/version", r"Kernel Module(?: for \S+)?\s+(\d+\.[.\d]+)"),
        (TEGRA_RELEASE, r"(R\d+ \(release\), REVISION: [\d.]+)"),
    ):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            match = re.search(pattern, file.read())
            if match:
                return match.group(1)
    return None


class _Runtime(Cuda):
    def __init__(self, calls: Any, device: int) -> None:
        self._calls = calls
        self._device = device
        self.name = calls.name
        _check_device(device, calls.call("cudaGetDeviceCount", out=ctypes.c_int))
        calls.call("cudaSetDevice", device)

    def malloc(self, size: int) -> int:
        return self._calls.call("cudaMalloc", Size(max(size, 1)), out=ctypes.c_void_p)

    def free(self, pointer: int) -> None:
        self._calls.call("cudaFree", pointer)

    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        self._calls.call("cudaMemcpyAsync", pointer, array.ctypes.data, Size(array.nbytes), _HOST_TO_DEVICE, stream)

    def to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        self._calls.call("cudaMemcpyAsync", array.ctypes.data, pointer, Size(array.nbytes), _DEVICE_TO_HOST, stream)

    def stream(self) -> int:
        return self._calls.call("cudaStreamCreateWithFlags", _NON_BLOCKING, out=ctypes.c_void_p)

    def end_stream(self, stream: int) -> None:
        self._calls.call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        self._calls.call("cudaStreamSynchronize", stream)

    def event(self) -> Any:
        return self._calls.call("cudaEventCreateWithFlags", 0, out=ctypes.c_void_p)

    def record(self, event: Any, stream: int) -> None:
        self._calls.call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self._calls.call("cudaEventSynchronize", end)
        return self._calls.call("cudaEventElapsedTime", start, end, out=ctypes.c_float)

    def capture(self, stream: int, call: Callable[[], None]) -> Callable[[], None]:
        self._calls.call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)
        try:
            call()
        finally:
            # Also after a failure: a stream that is still capturing accepts no other work.
            graph = self._calls.call("cudaStreamEndCapture", stream, out=ctypes.c_void_p, last=True)
        # Unlike those of cudaGraphInstantiate, its arguments have not changed since CUDA 11.4.
        run = self._calls.call("cudaGraphInstantiateWithFlags", graph, Size(0), out=ctypes.c_void_p)
        return lambda: self._calls.call("cudaGraphLaunch", run, stream)

    def facts(self) -> Dict[str, Any]:
        def attribute(which: int) -> int:
            return self._calls.call("cudaDeviceGetAttribute", which, self._device, out=ctypes.c_int)

        return {
            "name": self._calls.device_name(self._device),
            "compute_capability": f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
            "multiprocessors": attribute(_MULTIPROCESSORS),
            "cuda_driver": _version(self._calls.call("cudaDriverGetVersion", out=ctypes.c_int)),
            "cuda_runtime": _version(self._calls.call("cudaRuntimeGetVersion", out=ctypes.c_int)),
        }


class _PyCuda(Cuda):
    """pycuda, on the device's primary context, which TensorRT and torch use as well."""

    name = "pycuda"

    def __init__(self, driver: Any, device: int) -> None:
        self._driver = driver
        try:
            driver.init()
            _check_device(device, driver.Device.count())
            self._device = driver.Device(device)
            self._context = self._device.retain_primary_context()
            self._context.push()
        except driver.Error as error:
            raise MissingError(f"no usable GPU: {one_line(error)}", hint="irepdeploy doctor") from error
        self._memory: Dict[int, Any] = {}
        self._streams: Dict[int, Any] = {}

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
        stream = self._driver.Stream()
        self._streams[stream.handle] = stream
        return stream.handle

    def end_stream(self, stream: int) -> None:
        del self._streams[stream]

    def synchronize(self, stream: int) -> None:
        with self._mapped():
            self._streams[stream].synchronize()

    def event(self) -> Any:
        return self._driver.Event()

    def record(self, event: Any, stream: int) -> None:
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
            "cuda_driver": _version(self._driver.get_driver_version()),
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


def _check_device(device: int, count: int) -> None:
    if not 0 <= device < count:
        raise InputError(f"no GPU {device}: CUDA sees {count}", where="device", hint="GPUs are numbered from 0")


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
