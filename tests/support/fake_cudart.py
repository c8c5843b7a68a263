"""A fake libcudart that enforces the rules that real code may violate, each with its source.

"API" is NVIDIA's CUDA Runtime API reference, docs.nvidia.com/cuda/cuda-runtime-api. Leaks are recorded.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

__all__ = ["FakeCudart", "memory_at", "owner_of"]

_INVALID, _OUT_OF_MEMORY, _OLD_DRIVER, _NO_DEVICE, _NO_SUCH_DEVICE = 1, 2, 35, 100, 101
_BAD_HANDLE, _ILLEGAL_STATE, _NOT_READY, _CANNOT_CAPTURE, _INVALIDATED = 400, 401, 600, 900, 901
# Texts of cudaGetErrorString in CUDA 13.
_TEXTS = {
    _INVALID: b"invalid argument",
    _OUT_OF_MEMORY: b"out of memory",
    _OLD_DRIVER: b"CUDA driver version is insufficient for CUDA runtime version",
    _NO_DEVICE: b"no CUDA-capable device is detected",
    _NO_SUCH_DEVICE: b"invalid device ordinal",
    _BAD_HANDLE: b"invalid resource handle",
    _ILLEGAL_STATE: b"the operation cannot be performed in the present state",
    _NOT_READY: b"device not ready",
    _CANNOT_CAPTURE: b"operation not permitted when stream is capturing",
    _INVALIDATED: b"operation failed due to a previous error during capture",
}
# Far from anything that a host would map, since the host cannot access device memory.
_NUMBERS = itertools.count(0x7_0000_0000_0000, 1 << 20)
_BLOCKS: dict[int, tuple[Any, FakeCudart]] = {}
_OWNERS: dict[int, FakeCudart] = {}


def memory_at(address: int, size: int) -> Any:
    """Return the bytes of device or managed memory at an address, as a kernel sees them."""
    block, _ = _BLOCKS[address]
    return (ctypes.c_char * size).from_buffer(block)


def owner_of(stream: int) -> FakeCudart:
    """Return the library that created a stream."""
    return _OWNERS[stream]


class _Stream(NamedTuple):
    device: int
    # Work that was enqueued and is not done: (call,).
    queue: list[Callable[[], object]]
    # [] or [list of captured calls, or None once the capture is invalid].
    capture: list[Any]


class _Function:
    """A function as ctypes returns it: a callable with a `restype`."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.restype: Any = ctypes.c_int

    def __call__(self, *values: Any) -> Any:
        return self._call(*values)


class FakeCudart:
    """The used functions of libcudart, with the arguments of C.

    Args:
        devices: Number of GPUs.
        compute_capability: Compute capability of each GPU.
        memory: Bytes of memory of each GPU.
        captures: Whether the work of a stream can be captured.
        driver: CUDA version that the driver supports; a newer runtime fails with error 35 (API,
            cudaErrorInsufficientDriver).
        runtime: Version of this library.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        compute_capability: tuple[int, int] = (8, 0),
        memory: int = 1 << 20,
        captures: bool = True,
        driver: int = 12040,
        runtime: int = 11040,
    ) -> None:
        self.devices, self.memory, self.captures = devices, memory, captures
        self.driver, self.runtime = driver, runtime
        self.attributes = {75: compute_capability[0], 76: compute_capability[1], 16: 108}
        # Objects that were allocated or created, and not freed or destroyed.
        self.blocks: dict[int, int] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, _Stream] = {}
        self.events: dict[int, int] = {}
        self.graphs: dict[int, list[Callable[[], object]]] = {}
        self.execs: dict[int, list[Callable[[], object]]] = {}
        self.times: dict[int, int] = {}
        self._recorded_on: dict[int, int] = {}
        self._clock = itertools.count()
        self.launches: list[int] = []
        self.flags: dict[int, int] = {}
        self.last_error = 0
        # API, cudaSetDevice: the current device is one for each host thread.
        self._thread = threading.local()

    @property
    def current(self) -> int:
        """The current device of this thread."""
        return getattr(self._thread, "device", 0)

    def enqueue(self, stream: int, work: Callable[[], object]) -> int:
        """Enqueue work on a stream, or add it to the graph being captured, like a kernel launch."""
        found = self.streams.get(stream)
        # API, cudaLaunchKernel and "Multi-Device System": a stream of another device than the current one fails.
        if found is None or found.device != self.current:
            return self._fail(_BAD_HANDLE)
        return self._put(found, work)

    def left(self) -> list[str]:
        """Return the kinds of objects that were not released."""
        kinds = ("blocks", "pinned", "streams", "events", "graphs", "execs")
        return [kind for kind in kinds if getattr(self, kind)]

    def __getattr__(self, name: str) -> _Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name[4:]).lower()
        return _Function(getattr(self, f"_{snake}"))

    def _fail(self, code: int) -> int:
        # API, cudaGetLastError: an error stays until it is read.
        self.last_error = code or self.last_error
        return code

    def _get_last_error(self) -> int:
        found, self.last_error = self.last_error, 0
        return found

    def _get_error_string(self, code: int) -> bytes:
        return _TEXTS.get(code, b"unknown error")

    def _get_device_count(self, count: Any) -> int:
        if self.runtime // 1000 > self.driver // 1000:
            return self._fail(_OLD_DRIVER)
        count._obj.value = self.devices
        return self._fail(0 if self.devices else _NO_DEVICE)

    def _set_device(self, device: int) -> int:
        if not 0 <= device < self.devices:
            return self._fail(_NO_SUCH_DEVICE)
        self._thread.device = device
        return 0

    def _set_device_flags(self, flags: int) -> int:
        # API, cudaSetDeviceFlags: of the current device, which is initialized if it was not.
        self.flags[self.current] = flags
        return 0

    def _device_get_attribute(self, value: Any, which: int, device: int) -> int:
        value._obj.value = self.attributes[which]
        return 0

    def _get_device_properties(self, properties: Any, device: Any) -> int:
        properties[:8] = b"Fake GPU"
        return 0

    def _driver_get_version(self, version: Any) -> int:
        version._obj.value = self.driver
        return 0

    def _runtime_get_version(self, version: Any) -> int:
        version._obj.value = self.runtime
        return 0

    def _malloc(self, pointer: Any, size: Any) -> int:
        if size.value > self.memory:
            return self._fail(_OUT_OF_MEMORY)
        address = next(_NUMBERS)
        pointer._obj.value = address
        _BLOCKS[address] = ctypes.create_string_buffer(size.value), self
        self.blocks[address] = self.current
        return 0

    def _malloc_managed(self, pointer: Any, size: Any, flags: int) -> int:
        if flags != 1 or size.value > self.memory:
            return self._fail(_INVALID if flags != 1 else _OUT_OF_MEMORY)
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        _BLOCKS[ctypes.addressof(block)] = block, self
        self.blocks[ctypes.addressof(block)] = self.current
        return 0

    def _free(self, pointer: Any) -> int:
        if self.blocks.pop(pointer.value, None) is None:
            return self._fail(_INVALID)
        del _BLOCKS[pointer.value]
        return 0

    def _host_alloc(self, pointer: Any, size: Any, flags: int) -> int:
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.pinned[ctypes.addressof(block)] = block
        return self._fail(0 if flags == 0 else _INVALID)

    def _free_host(self, pointer: Any) -> int:
        return self._fail(0 if self.pinned.pop(pointer.value, None) is not None else _INVALID)

    def _memcpy_async(self, target: Any, source: Any, size: Any, kind: int, stream: Any) -> int:
        found = self.streams.get(stream.value)
        if found is None or kind not in (1, 2):
            return self._fail(_INVALID)
        host, device = (source, target) if kind == 1 else (target, source)
        if device.value not in self.blocks or len(_BLOCKS[device.value][0]) < size.value:
            return self._fail(_INVALID)
        there = _BLOCKS[device.value][0]
        if not self._is_pinned(host.value):
            return self._pageable(found, host.value, there, size.value, kind)

        def copy() -> None:
            ends = (there, host.value) if kind == 1 else (host.value, there)
            ctypes.memmove(*ends, size.value)

        return self._put(found, copy)

    def _pageable(self, stream: _Stream, host: int, there: Any, size: int, kind: int) -> int:
        # API, "API synchronization behavior", asynchronous: copies from pageable memory are staged before the call
        # returns, and copies to it are complete when the call returns.
        if stream.capture:
            stream.capture[0] = None
            return self._fail(_CANNOT_CAPTURE)
        if kind == 1:
            staged = ctypes.string_at(host, size)
            return self._put(stream, partial(ctypes.memmove, there, staged, size))
        self._drain(stream)
        ctypes.memmove(host, there, size)
        return 0

    def _is_pinned(self, address: int) -> bool:
        return any(start <= address < start + len(block) for start, block in self.pinned.items())

    def _stream_create(self, stream: Any) -> int:
        return self._stream_create_with_flags(stream, 0)

    def _stream_create_with_flags(self, stream: Any, flags: int) -> int:
        handle = self._handle(stream)
        self.streams[handle] = _Stream(self.current, [], [])
        _OWNERS[handle] = self
        return 0

    def _stream_destroy(self, stream: Any) -> int:
        if self.streams.pop(stream.value, None) is None:
            return self._fail(_BAD_HANDLE)
        del _OWNERS[stream.value]
        return 0

    def _stream_synchronize(self, stream: Any) -> int:
        found = self.streams.get(stream.value)
        if found is None:
            return self._fail(_BAD_HANDLE)
        if found.capture:
            # API, "Stream capture": a capturing stream may not be waited for, and the attempt invalidates the capture.
            code = _CANNOT_CAPTURE if found.capture[0] is not None else _INVALIDATED
            found.capture[0] = None
            return self._fail(code)
        # As with a GPU, the host waits without computing.
        time.sleep(0.001)
        self._drain(found)
        return 0

    def _event_create_with_flags(self, event: Any, flags: int) -> int:
        self.events[self._handle(event)] = self.current
        return 0

    def _event_destroy(self, event: Any) -> int:
        return self._fail(0 if self.events.pop(event.value, None) is not None else _BAD_HANDLE)

    def _event_record(self, event: Any, stream: Any) -> int:
        found, number = self.streams.get(stream.value), event.value
        # API, cudaEventRecord: event and stream must belong to the same device.
        if found is None or self.events.get(number) != found.device:
            return self._fail(_BAD_HANDLE)
        self._recorded_on[number] = stream.value

        def record() -> None:
            self.times[number] = next(self._clock)

        self.times.pop(number, None)
        return self._put(found, record)

    def _event_synchronize(self, event: Any) -> int:
        stream = self.streams.get(self._recorded_on.get(event.value, 0))
        if stream is None:
            return self._fail(_BAD_HANDLE)
        self._drain(stream)
        return 0

    def _event_elapsed_time(self, milliseconds: Any, start: Any, end: Any) -> int:
        if start.value not in self.times or end.value not in self.times:
            return self._fail(_NOT_READY)
        milliseconds._obj.value = 1.5 * (self.times[end.value] - self.times[start.value])
        return 0

    def _stream_begin_capture(self, stream: Any, mode: int) -> int:
        found = self.streams[stream.value]
        if not self.captures:
            return self._fail(_CANNOT_CAPTURE)
        # API, cudaStreamBeginCapture: fails if the stream is already capturing.
        if found.capture:
            return self._fail(_ILLEGAL_STATE)
        found.capture.append([])
        return 0

    def _stream_end_capture(self, stream: Any, graph: Any) -> int:
        found = self.streams[stream.value]
        if not found.capture:
            return self._fail(_ILLEGAL_STATE)
        captured = found.capture.pop()
        if captured is None:
            # NVIDIA/TensorRT, samples/common/sampleDevice.h, endCaptureOnError: no graph if the capture is invalid.
            graph._obj.value = None
            return self._fail(_INVALIDATED)
        self.graphs[self._handle(graph)] = captured
        return 0

    def _graph_instantiate_with_flags(self, run: Any, graph: Any, flags: Any) -> int:
        if graph.value not in self.graphs:
            return self._fail(_INVALID)
        self.execs[self._handle(run)] = list(self.graphs[graph.value])
        return 0

    def _graph_destroy(self, graph: Any) -> int:
        return self._fail(0 if self.graphs.pop(graph.value, None) is not None else _INVALID)

    def _graph_exec_destroy(self, run: Any) -> int:
        return self._fail(0 if self.execs.pop(run.value, None) is not None else _INVALID)

    def _graph_launch(self, run: Any, stream: Any) -> int:
        if run.value not in self.execs:
            return self._fail(_INVALID)
        self.launches.append(run.value)
        for work in self.execs[run.value]:
            self._put(self.streams[stream.value], work)
        return 0

    def _put(self, stream: _Stream, work: Callable[[], object]) -> int:
        if not stream.capture:
            stream.queue.append(work)
            return 0
        if stream.capture[0] is None:
            return self._fail(_INVALIDATED)
        stream.capture[0].append(work)
        return 0

    @staticmethod
    def _drain(stream: _Stream) -> None:
        while stream.queue:
            stream.queue.pop(0)()

    def _handle(self, target: Any) -> int:
        target._obj.value = next(_NUMBERS)
        return target._obj.value
