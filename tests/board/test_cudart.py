"""CUDA by ctypes on a fake libcudart, by cuda-python and pycuda on fakes of theirs: there is no GPU here."""

from __future__ import annotations

import ctypes
import enum
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from irepdeploy.board import cudart
from irepdeploy.board.cudart import Cuda, device_facts, open_cuda
from irepdeploy.board.trt_library import assembled_folder
from irepdeploy.errors import InputError, MissingError, RunError
from support.fake_cudart import FakeCudart

FACTS = {
    "name": "Fake GPU",
    "compute_capability": "8.0",
    "multiprocessors": 108,
    "cuda_driver": "12.4",
    "cuda_runtime": "11.4",
}


class FakeCudaPython(ModuleType):
    """`cuda.bindings.runtime` over the same fake: answers are (error, result), handles are objects."""

    cudaDeviceAttr = enum.IntEnum("cudaDeviceAttr", {"sm": 16, "major": 75, "minor": 76})  # noqa: N815
    cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"htod": 1, "dtoh": 2})  # noqa: N815
    cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"local": 1})  # noqa: N815

    class Handle:
        def __init__(self, number: int) -> None:
            self.number = number

        def __int__(self) -> int:
            return self.number

    def __init__(self, library: FakeCudart) -> None:
        super().__init__("cuda.bindings.runtime")
        self.library = library

    def cudaGetErrorString(self, code: int) -> Any:  # noqa: N802
        return 0, self.library.cudaGetErrorString(code)

    def cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        return 0, SimpleNamespace(name=b"Fake GPU\0\0")

    def __getattr__(self, name: str) -> Any:
        outs: dict[str, Any] = {
            "cudaGetDeviceCount": ctypes.c_int, "cudaDeviceGetAttribute": ctypes.c_int,
            "cudaDriverGetVersion": ctypes.c_int, "cudaRuntimeGetVersion": ctypes.c_int,
            "cudaEventElapsedTime": ctypes.c_float, "cudaMalloc": ctypes.c_void_p,
        }  # fmt: skip
        handles = ("Create", "EndCapture", "Instantiate")

        def call(*values: Any) -> Any:
            if name == "cudaMemcpyAsync" and not isinstance(values[3], self.cudaMemcpyKind):
                raise TypeError("kind")
            if name == "cudaDeviceGetAttribute" and not isinstance(values[0], self.cudaDeviceAttr):
                raise TypeError("attribute")
            if name.startswith(("cudaStreamS", "cudaStreamD")) and not isinstance(values[0], self.Handle):
                raise TypeError("stream")
            is_handle = any(part in name for part in handles)
            kind = ctypes.c_void_p if is_handle else outs.get(name)
            result = None if kind is None else kind()
            given = [_as_c(int(value)) for value in values]
            if name in ("cudaMalloc",):
                given = [ctypes.c_size_t(values[0])]
            if name == "cudaMemcpyAsync":
                given[2] = ctypes.c_size_t(values[2])
            if result is not None:
                given.insert(len(given) if "EndCapture" in name else 0, ctypes.byref(result))
            code = getattr(self.library, name)(*given)
            if result is None:
                return (code,)
            return code, self.Handle(result.value or 0) if is_handle else result.value

        return call


def _as_c(value: int) -> Any:
    return ctypes.c_void_p(value) if value > 1 << 16 else value


@pytest.fixture(params=["ctypes", "cuda-python"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**options: Any) -> tuple[Cuda, FakeCudart]:
        library = FakeCudart(**options)
        if request.param == "ctypes":
            return open_cuda(library=library), library
        monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudaPython(library))
        return open_cuda(backend="cuda-python"), library

    return make


def check_copies_and_events(cuda: Cuda) -> None:
    stream = cuda.stream()
    there = np.arange(12, dtype=np.float32).reshape(3, 4)
    back = np.empty_like(there)
    pointer = cuda.malloc(there.nbytes)
    start, end = cuda.event(), cuda.event()
    cuda.to_device(pointer, there, stream)
    cuda.record(start, stream)
    cuda.record(end, stream)
    cuda.to_host(back, pointer, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(back, there)
    assert cuda.elapsed_ms(start, end) == 1.5
    cuda.free(pointer)
    cuda.end_stream(stream)


def test_copies_and_events(opened: Any) -> None:
    cuda, library = opened()
    check_copies_and_events(cuda)
    cuda.close()
    assert not library.blocks and not library.streams


def test_graph(opened: Any) -> None:
    cuda, library = opened()
    stream, calls = cuda.stream(), []
    launch = cuda.capture(stream, lambda: calls.append(1))
    launch()
    launch()
    assert calls == [1] and len(library.launches) == 2


def test_what_cannot_be_captured(opened: Any) -> None:
    cuda, _ = opened(captures=False)
    with pytest.raises(RunError, match="not permitted when stream is capturing"):
        cuda.capture(cuda.stream(), lambda: None)


def test_a_failure_while_capturing_ends_the_capture(opened: Any) -> None:
    cuda, library = opened()
    handles = library._next
    with pytest.raises(ZeroDivisionError):
        cuda.capture(cuda.stream(), lambda: 1 // 0)  # type: ignore[arg-type]
    # The stream and the graph that its capture ended in.
    assert library._next == handles + 32


def test_facts(opened: Any) -> None:
    assert opened()[0].facts() == FACTS


def test_errors(opened: Any) -> None:
    with pytest.raises(MissingError, match="no CUDA-capable device is detected"):
        opened(devices=0)
    cuda, library = opened(memory=100)
    with pytest.raises(RunError, match="out of memory"):
        cuda.malloc(101)
    stream = cuda.stream()
    library.streams.clear()
    with pytest.raises(RunError, match="CUDA failed: unknown error"):
        cuda.synchronize(stream)


def test_no_such_device_or_binding() -> None:
    with pytest.raises(InputError, match="no GPU 1: CUDA sees 1"):
        open_cuda(1, library=FakeCudart())
    with pytest.raises(InputError, match="one of pycuda, cuda-python, ctypes"):
        open_cuda(backend="torch")


class FakePyCuda(ModuleType):
    """`pycuda.driver`."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class Allocation:
        def __init__(self, owner: FakePyCuda, size: int) -> None:
            self.owner, self.block = owner, ctypes.create_string_buffer(size)
            owner.left.add(int(self))

        def __int__(self) -> int:
            return ctypes.addressof(self.block)

        def free(self) -> None:
            self.owner.left.remove(int(self))

    def __init__(self, devices: int = 1) -> None:
        super().__init__("pycuda.driver")
        self.left: set[int] = set()
        self.depth, self.devices = 0, devices
        self.Device = type(
            "Device",
            (),
            {
                "__init__": lambda this, number: None,
                "count": staticmethod(lambda: devices),
                "retain_primary_context": lambda this: SimpleNamespace(push=self._push, pop=self._pop),
                "compute_capability": lambda this: (8, 0),
                "name": lambda this: "Fake GPU",
                "get_attribute": lambda this, which: 108,
            },
        )
        self.device_attribute = SimpleNamespace(MULTIPROCESSOR_COUNT=16)

    def _push(self) -> None:
        self.depth += 1

    def _pop(self) -> None:
        self.depth -= 1

    def init(self) -> None:
        if not self.devices:
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def get_driver_version(self) -> int:
        return 12040

    def get_version(self) -> tuple[int, int, int]:
        return 11, 4, 0

    def mem_alloc(self, size: int) -> Any:
        if size > 1 << 20:
            raise self.MemoryError("out of memory")
        return self.Allocation(self, size)

    def Stream(self) -> Any:  # noqa: N802
        return SimpleNamespace(handle=4096, synchronize=lambda: None)

    def Event(self) -> Any:  # noqa: N802
        return SimpleNamespace(record=lambda stream: None, synchronize=lambda: None, time_since=lambda other: 1.5)

    def memcpy_htod_async(self, target: int, source: Any, stream: Any) -> None:
        ctypes.memmove(target, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, target: Any, source: int, stream: Any) -> None:
        ctypes.memmove(target.ctypes.data, source, target.nbytes)


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> FakePyCuda:
    fake = FakePyCuda()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    return fake


def test_pycuda_comes_first(pycuda: FakePyCuda) -> None:
    cuda = open_cuda()
    assert cuda.name == "pycuda"
    assert cuda.facts() == FACTS
    check_copies_and_events(cuda)
    cuda.close()
    assert pycuda.depth == 0 and not pycuda.left


def test_pycuda_says_what_it_lacks(pycuda: FakePyCuda) -> None:
    cuda = open_cuda(backend="pycuda")
    with pytest.raises(MissingError, match="pycuda has no CUDA graphs"):
        cuda.capture(cuda.stream(), lambda: None)
    with pytest.raises(RunError, match="out of memory"):
        cuda.malloc(1 << 21)
    with pytest.raises(InputError, match="no GPU 3"):
        open_cuda(3, backend="pycuda")
    pycuda.devices = 0
    with pytest.raises(MissingError, match="no CUDA-capable device"):
        open_cuda(backend="pycuda")


def test_the_order_of_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCudart()
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(cudart, "_libcudart", lambda: library)
    assert open_cuda().name == "ctypes"
    with pytest.raises(MissingError, match="cuda-python is not installed"):
        open_cuda(backend="cuda-python")
    # The name of the module before 12.6.
    old = FakeCudaPython(library)
    package = ModuleType("cuda")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "cuda", package)
    monkeypatch.setitem(sys.modules, "cuda.cudart", old)
    assert open_cuda().name == "cuda-python"


def test_no_libcudart(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(cudart.ctypes, "CDLL", none)
    with pytest.raises(MissingError, match="no libcudart here"):
        open_cuda(backend="ctypes")
    assert device_facts()["gpu"] == "none: no libcudart here"


def test_device_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudart, "_libcudart", FakeCudart)
    assert {key: value for key, value in device_facts().items() if key != "driver"} == FACTS


@pytest.mark.trt
def test_the_real_library_has_these_calls_and_says_that_there_is_no_gpu() -> None:
    folder = assembled_folder()
    assert folder is not None
    library = ctypes.CDLL(str(next(Path(folder).rglob("libcudart.so.*"))))
    called = [*re.findall(r'"(cuda[A-Z]\w+)"', Path(cudart.__file__).read_text()), "cudaGetErrorString"]
    assert len(called) > 15 and [name for name in called if not hasattr(library, name)] == []
    if device_facts().get("name") is None:
        with pytest.raises(MissingError, match=r"no usable GPU: .*cudaGetDeviceCount, error \d+"):
            open_cuda(library=library)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\nGCC version: 9",
            "470.82.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)",
            "580.65.06",
        ),
        (
            "# R35 (release), REVISION: 6.1, GCID: 39721438, BOARD: t186ref, EABI: aarch64",
            "R35 (release), REVISION: 6.1",
        ),
    ],
)
def test_driver(text: str, version: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text(text)
    which = "/etc/nv_tegra_release" if text.startswith("#") else "/proc/driver/nvidia/version"
    real = open

    def opened(path: str, *args: Any, **options: Any) -> Any:
        return real(tmp_path / ("file" if path == which else "none"), *args, **options)

    monkeypatch.setattr(cudart, "open", opened, raising=False)
    assert cudart._driver() == version
