"""CUDA buffers, streams, events and graphs, through whichever binding is installed.

The bindings are tried in this order: cuda-python; ctypes on libcudart, which comes with every TensorRT; and pycuda,
which has no graphs. `Cuda.name` names the one in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import re
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import numpy as np

from irepdeploy.board.cuda_calls import CtypesCalls, PythonCalls, Size
from irepdeploy.board.cuda_device import Cuda, CudaGraph, check_device, version_text
from irepdeploy.board.cuda_library import cuda_libraries
from irepdeploy.board.jetpack import TEGRA_RELEASE
from irepdeploy.board.pycuda_device import open_pycuda
from irepdeploy.errors import InputError, IrepdeployError, MissingError, RunError

__all__ = ["BACKENDS", "Cuda", "device_facts", "open_cuda"]

BACKENDS = ("cuda-python", "ctypes", "pycuda")

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_NON_BLOCKING = 1
_THREAD_LOCAL = 1
_SPIN = 1
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76


def open_cuda(device: int = 0, *, backend: Optional[str] = None, library: Any = None) -> Cuda:
    """Open a device with the first binding that works on this machine, or with the named one.

    Args:
        device: Index of the GPU.
        backend: Name of the binding, one of `BACKENDS`; None to try all.
        library: A loaded libcudart for the ctypes binding; None to search for one.

    Raises:
        InputError: There is no such binding or device.
        MissingError: No binding is installed, or none finds a usable GPU. The message is that of the first binding.
        RunError: Every binding fails, the first one for another reason.
    """
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"unknown CUDA binding {backend!r}", where="backend", hint="one of " + ", ".join(BACKENDS))
    if library is not None:
        return _Runtime(CtypesCalls(library), device)
    reasons: List[IrepdeployError] = []
    for name in BACKENDS if backend is None else (backend,):
        for make in _BINDINGS[name]():
            try:
                return make(device)
            except (MissingError, RunError) as error:
                # For example, this runtime may be newer than the driver; another one may be older.
                reasons.append(error)
    if reasons:
        raise reasons[0]
    if backend in (None, "ctypes"):
        raise MissingError(
            "libcudart was not found", hint="install CUDA or JetPack, or pip install nvidia-cuda-runtime"
        )
    raise MissingError(f"{backend} is not installed", hint=f"pip install {backend}")


def device_facts(device: int = 0) -> Dict[str, Any]:
    """Return `Cuda.facts` and the driver version, or the reason why there is no usable GPU. Never raises."""
    facts: Dict[str, Any] = {"driver": _driver()}
    try:
        cuda = open_cuda(device)
        try:
            facts.update(cuda.facts())
        finally:
            cuda.close()
    except (MissingError, InputError, RunError) as error:
        facts["gpu"] = "none: " + error.what
    return facts


# Functions that open a device, one for each way in which a binding is installed.
_Makers = Iterator[Callable[[int], Cuda]]


def _cuda_python() -> _Makers:
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            yield lambda device, module=module: _Runtime(PythonCalls(module), device)  # type: ignore[misc]
            return


def _ctypes() -> _Makers:
    for library in cuda_libraries():
        yield lambda device, library=library: _Runtime(CtypesCalls(library), device)  # type: ignore[misc]


def _pycuda() -> _Makers:
    with contextlib.suppress(ImportError):
        driver = importlib.import_module("pycuda.driver")
        yield lambda device: open_pycuda(driver, device)


_BINDINGS: Dict[str, Callable[[], _Makers]] = {"cuda-python": _cuda_python, "ctypes": _ctypes, "pycuda": _pycuda}


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
        self._pinned: Dict[int, int] = {}
        self._count = calls.call("cudaGetDeviceCount", out=ctypes.c_int)
        check_device(device, self._count)
        calls.call("cudaSetDevice", device)
        self._spin()

    def _spin(self) -> None:
        # By default (cudaDeviceScheduleAuto) CUDA may block on a Tegra, which adds to the host's times. The flags apply
        # to the current device.
        try:
            self._calls.call("cudaSetDeviceFlags", _SPIN)
            self.waits = "spin"
        except IrepdeployError:
            # Older versions refuse to change the flags of a device that is already in use, for instance by torch.
            self._calls.clear_error()

    def use(self) -> None:
        if self._count > 1:
            self._calls.call("cudaSetDevice", self._device)

    def malloc(self, size: int) -> int:
        return self._calls.call("cudaMalloc", Size(max(size, 1)), out=ctypes.c_void_p)

    def free(self, pointer: int) -> None:
        self._calls.call("cudaFree", pointer)

    def host_array(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        count = math.prod(shape)
        size = max(count, 1) * np.dtype(dtype).itemsize
        pointer = self._calls.call("cudaHostAlloc", Size(size), 0, out=ctypes.c_void_p)
        memory: Any = (ctypes.c_char * size).from_address(pointer)
        array = np.frombuffer(memory, dtype)[:count].reshape(tuple(shape))
        self._pinned[id(array)] = pointer
        return array

    def free_host(self, array: np.ndarray) -> None:
        self._calls.call("cudaFreeHost", self._pinned.pop(id(array)))

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

    def end_event(self, event: Any) -> None:
        self._calls.call("cudaEventDestroy", event)

    def record(self, event: Any, stream: int) -> None:
        self._calls.call("cudaEventRecord", event, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self._calls.call("cudaEventSynchronize", end)
        return self._calls.call("cudaEventElapsedTime", start, end, out=ctypes.c_float)

    def capture(self, stream: int, call: Callable[[], None]) -> CudaGraph:
        calls = self._calls
        try:
            calls.call("cudaStreamBeginCapture", stream, _THREAD_LOCAL)
            try:
                call()
            except BaseException:
                # A stream that is still capturing accepts no other work, so end the capture. This returns a graph
                # unless it was invalidated (NVIDIA/TensorRT, samples/common/sampleDevice.h: endCaptureOnError).
                with contextlib.suppress(IrepdeployError):
                    calls.call("cudaGraphDestroy", self._end_capture(stream))
                raise
            graph = self._end_capture(stream)
            try:
                # Unlike cudaGraphInstantiate, this function has kept its arguments since CUDA 11.4.
                run = calls.call("cudaGraphInstantiateWithFlags", graph, Size(0), out=ctypes.c_void_p)
            finally:
                calls.call("cudaGraphDestroy", graph)
        except BaseException:
            calls.clear_error()
            raise
        return CudaGraph(
            lambda: calls.call("cudaGraphLaunch", run, stream), lambda: calls.call("cudaGraphExecDestroy", run)
        )

    def _end_capture(self, stream: int) -> int:
        return self._calls.call("cudaStreamEndCapture", stream, out=ctypes.c_void_p, last=True)

    def facts(self) -> Dict[str, Any]:
        def attribute(which: int) -> int:
            return self._calls.call("cudaDeviceGetAttribute", which, self._device, out=ctypes.c_int)

        return {
            "name": self._calls.device_name(self._device),
            "compute_capability": f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
            "multiprocessors": attribute(_MULTIPROCESSORS),
            "cuda_driver": version_text(self._calls.call("cudaDriverGetVersion", out=ctypes.c_int)),
            "cuda_runtime": version_text(self._calls.call("cudaRuntimeGetVersion", out=ctypes.c_int)),
        }
