"""A fake libcudart: device memory is the host's, streams run at once, and leaks are recorded."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from typing import Any

__all__ = ["FakeCudart"]

_OUT_OF_MEMORY, _NO_DEVICE, _CANNOT_CAPTURE = 2, 100, 900
_TEXTS = {
    _OUT_OF_MEMORY: b"out of memory",
    _NO_DEVICE: b"no CUDA-capable device is detected",
    _CANNOT_CAPTURE: b"operation not permitted when stream is capturing",
}


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
        compute_capability: Of each.
        memory: Bytes of each.
        captures: Whether a stream's work can be captured.
    """

    def __init__(
        self,
        *,
        devices: int = 1,
        compute_capability: tuple[int, int] = (8, 0),
        memory: int = 1 << 20,
        captures: bool = True,
    ) -> None:
        self.devices, self.memory, self.captures = devices, memory, captures
        self.attributes = {75: compute_capability[0], 76: compute_capability[1], 16: 108}
        self.blocks: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.times: dict[int, int] = {}
        self.launches: list[int] = []
        self._next = 1 << 20

    def __getattr__(self, name: str) -> _Function:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name[4:]).lower()
        return _Function(getattr(self, f"_{snake}"))

    def _get_error_string(self, code: int) -> bytes:
        return _TEXTS.get(code, b"unknown error")

    def _get_device_count(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0 if self.devices else _NO_DEVICE

    def _set_device(self, device: int) -> int:
        return 0

    def _device_get_attribute(self, value: Any, which: int, device: int) -> int:
        value._obj.value = self.attributes[which]
        return 0

    def _get_device_properties(self, properties: Any, device: Any) -> int:
        properties[:8] = b"Fake GPU"
        return 0

    def _driver_get_version(self, version: Any) -> int:
        version._obj.value = 12040
        return 0

    def _runtime_get_version(self, version: Any) -> int:
        version._obj.value = 11040
        return 0

    def _malloc(self, pointer: Any, size: Any) -> int:
        if size.value > self.memory:
            return _OUT_OF_MEMORY
        block = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(block)
        self.blocks[ctypes.addressof(block)] = block
        return 0

    def _malloc_managed(self, pointer: Any, size: Any, flags: int) -> int:
        return self._malloc(pointer, size) if flags == 1 else 1

    def _free(self, pointer: Any) -> int:
        del self.blocks[pointer.value]
        return 0

    def _memcpy_async(self, target: Any, source: Any, size: Any, kind: int, stream: Any) -> int:
        if stream.value not in self.streams or kind not in (1, 2):
            return 1
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def _memcpy(self, target: Any, source: Any, size: Any, kind: int) -> int:
        ctypes.memmove(target.value, source.value, size.value)
        return 0

    def _stream_create(self, stream: Any) -> int:
        return self._stream_create_with_flags(stream, 0)

    def _stream_create_with_flags(self, stream: Any, flags: int) -> int:
        self.streams.add(self._handle(stream))
        return 0

    def _stream_destroy(self, stream: Any) -> int:
        self.streams.remove(stream.value)
        return 0

    def _stream_synchronize(self, stream: Any) -> int:
        # As with a GPU, the host waits without computing.
        time.sleep(0.001)
        return 0 if stream.value in self.streams else 1

    def _event_create_with_flags(self, event: Any, flags: int) -> int:
        self._handle(event)
        return 0

    def _event_record(self, event: Any, stream: Any) -> int:
        self.times[event.value] = len(self.times)
        return 0

    def _event_synchronize(self, event: Any) -> int:
        return 0 if event.value in self.times else 1

    def _event_elapsed_time(self, milliseconds: Any, start: Any, end: Any) -> int:
        milliseconds._obj.value = 1.5 * (self.times[end.value] - self.times[start.value])
        return 0

    def _stream_begin_capture(self, stream: Any, mode: int) -> int:
        return 0 if self.captures else _CANNOT_CAPTURE

    def _stream_end_capture(self, stream: Any, graph: Any) -> int:
        self._handle(graph)
        return 0

    def _graph_instantiate_with_flags(self, run: Any, graph: Any, flags: Any) -> int:
        self._handle(run)
        return 0

    def _graph_launch(self, run: Any, stream: Any) -> int:
        self.launches.append(run.value)
        return 0

    def _handle(self, target: Any) -> int:
        self._next += 16
        target._obj.value = self._next
        return self._next
