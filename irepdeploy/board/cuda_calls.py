"""CUDA runtime calls through ctypes or cuda-python, with one interface: ``call(name, *inputs, out=type)``."""

from __future__ import annotations

import ctypes
from typing import Any, Dict, List

from irepdeploy.errors import MissingError, RunError, one_line

__all__ = ["CtypesCalls", "PythonCalls", "Size"]

_OUT_OF_MEMORY, _NO_DEVICE = 2, (35, 100, 999)


class Size(int):
    """An integer passed to C as size_t."""


class CtypesCalls:
    """CUDA runtime calls through ctypes."""

    name = "ctypes"

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *values: Any, out: Any = None, last: bool = False) -> Any:
        """Call a CUDA function and return its result.

        Args:
            name: Name of the function.
            values: Input arguments.
            out: Type (of ctypes) of the result, which C writes through a pointer; None if there is no result.
            last: Pass that pointer as the last argument instead of the first.

        Raises:
            MissingError: This version of CUDA lacks the function, or there is no usable GPU.
            RunError: The call failed.
        """
        result = None if out is None else out()
        given: List[Any] = [_as_c(value) for value in values]
        if result is not None:
            given.insert(len(given) if last else 0, ctypes.byref(result))
        self.check(name, _function(self._library, name)(*given))
        return None if result is None else result.value

    def clear_error(self) -> None:
        """Clear the error of an earlier call, which a later, unrelated call would otherwise report as its own."""
        self._library.cudaGetLastError()

    def check(self, name: str, code: int) -> None:
        """Raise MissingError or RunError unless the error code is 0."""
        if code:
            describe = self._library.cudaGetErrorString
            describe.restype = ctypes.c_char_p
            text = describe(code)
            _raise(name, code, text.decode() if isinstance(text, bytes) else str(text))

    def device_name(self, device: int) -> str:
        """Return the name of a device, such as "NVIDIA A100-SXM4-40GB"."""
        # The structure begins with the name in every version of CUDA; its other fields and its size differ.
        buffer = ctypes.create_string_buffer(16384)
        self.check("cudaGetDeviceProperties", self._library.cudaGetDeviceProperties(buffer, ctypes.c_int(device)))
        return buffer.value.decode(errors="replace")


class PythonCalls:
    """CUDA runtime calls through cuda-python, which returns (error, result) and takes enums instead of integers."""

    name = "cuda-python"

    def __init__(self, module: Any) -> None:
        self._module = module
        self._handles: Dict[int, Any] = {}

    def clear_error(self) -> None:
        """Clear the error of an earlier call, which a later, unrelated call would otherwise report as its own."""
        self._module.cudaGetLastError()

    def call(self, name: str, *values: Any, out: Any = None, last: bool = False) -> Any:
        """Call a CUDA function and return its result as an integer or a float; see `CtypesCalls.call`."""
        given = [self._as_python(name, index, value) for index, value in enumerate(values)]
        try:
            answer = _function(self._module, name)(*given)
        except RuntimeError as error:
            # cuda-python loads the driver's library at the first call.
            what = f"no usable GPU: cuda-python does not work here: {one_line(error)}"
            raise MissingError(what, hint="irepdeploy doctor") from error
        if int(answer[0]):
            text = self._module.cudaGetErrorString(answer[0])[1]
            _raise(name, int(answer[0]), text.decode() if isinstance(text, bytes) else str(text))
        if "Destroy" in name:
            # An address in memory may later equal the number of a destroyed handle.
            self._handles.pop(values[0], None)
        if len(answer) < 2:
            return None
        if out is ctypes.c_float:
            return float(answer[1])
        number = int(answer[1])
        if out is ctypes.c_void_p and not isinstance(answer[1], int):
            self._handles[number] = answer[1]
        return number

    def _as_python(self, name: str, index: int, value: Any) -> Any:
        if name == "cudaDeviceGetAttribute" and index == 0:
            return self._module.cudaDeviceAttr(value)
        if name == "cudaMemcpyAsync" and index == 3:
            return self._module.cudaMemcpyKind(value)
        if name == "cudaStreamBeginCapture" and index == 1:
            return self._module.cudaStreamCaptureMode(value)
        # cuda-python represents streams, events and graphs as objects, and memory addresses as plain integers.
        return self._handles.get(value, value) if isinstance(value, int) and value > 1 << 16 else value

    def device_name(self, device: int) -> str:
        """Return the name of a device, such as "NVIDIA A100-SXM4-40GB"."""
        error, properties = self._module.cudaGetDeviceProperties(device)
        if int(error):
            _raise("cudaGetDeviceProperties", int(error), str(error))
        name = properties.name
        return (name.decode(errors="replace") if isinstance(name, bytes) else str(name)).rstrip("\0")


def _function(library: Any, name: str) -> Any:
    try:
        return getattr(library, name)
    except AttributeError as error:
        # For example, cudaGraphInstantiateWithFlags was added in CUDA 11.4.
        raise MissingError(f"this version of CUDA has no {name}", hint="install a newer version") from error


def _as_c(value: Any) -> Any:
    if isinstance(value, Size):
        return ctypes.c_size_t(value)
    # Pointers and handles do not fit into a C int; flags and kinds do.
    return ctypes.c_void_p(value) if isinstance(value, int) and value > 1 << 16 else value


def _raise(name: str, code: int, text: str) -> None:
    if code in _NO_DEVICE:
        raise MissingError(f"no usable GPU: {text} ({name}, error {code})", hint="irepdeploy doctor")
    if code == _OUT_OF_MEMORY:
        raise RunError("the GPU is out of memory", where=name, hint="use a smaller batch")
    raise RunError(f"CUDA failed: {text} (error {code})", where=name, hint="irepdeploy doctor")
