"""CUDA through ctypes on a fake libcudart, and through fakes of cuda-python and pycuda, since there is no GPU here."""

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

from irepdeploy.board import cuda_library, cudart
from irepdeploy.board.cuda_library import cuda_libraries
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
            "cudaEventElapsedTime": ctypes.c_float, "cudaMalloc": ctypes.c_void_p, "cudaHostAlloc": ctypes.c_void_p,
        }  # fmt: skip
        handles = ("Create", "EndCapture", "Instantiate")

        def call(*values: Any) -> Any:
            if name == "cudaMemcpyAsync" and not isinstance(values[3], self.cudaMemcpyKind):
                raise TypeError("kind")
            if name == "cudaDeviceGetAttribute" and not isinstance(values[0], self.cudaDeviceAttr):
                raise TypeError("attribute")
            if name.startswith(("cudaStreamS", "cudaStreamD")) and not isinstance(values[0], self.Handle):
                raise TypeError("stream")
            if name.startswith("cudaFree") and isinstance(values[0], self.Handle):
                raise TypeError("memory")
            is_handle = any(part in name for part in handles)
            kind = ctypes.c_void_p if is_handle else outs.get(name)
            result = None if kind is None else kind()
            given = [_as_c(int(value)) for value in values]
            if name in ("cudaMalloc", "cudaHostAlloc"):
                given[0] = ctypes.c_size_t(values[0])
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
    pinned = cuda.host_array((3, 4), "float32")
    cuda.to_host(pinned, pointer, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(pinned, there)
    cuda.free_host(pinned)
    for event in (start, end):
        cuda.end_event(event)
    cuda.free(pointer)
    cuda.end_stream(stream)


def test_copies_and_events(opened: Any) -> None:
    cuda, library = opened()
    check_copies_and_events(cuda)
    cuda.close()
    assert library.left() == [] and library.flags == {0: 1}


@pytest.mark.parametrize(("shape", "dtype"), [((), "int64"), ((0, 3), "float16"), ((2, 3, 5), "uint8")])
def test_page_locked_arrays(opened: Any, shape: tuple[int, ...], dtype: str) -> None:
    cuda, library = opened()
    array = cuda.host_array(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype) and array.flags.writeable
    cuda.free_host(array)
    assert library.left() == []


def test_graph(opened: Any) -> None:
    cuda, library = opened()
    stream, calls = cuda.stream(), []
    launch = cuda.capture(stream, lambda: calls.append(1))
    launch()
    launch()
    assert calls == [1] and len(library.launches) == 2
    launch.end()
    cuda.end_stream(stream)
    assert library.left() == []


def test_what_cannot_be_captured(opened: Any) -> None:
    cuda, library = opened(captures=False)
    with pytest.raises(RunError, match="not permitted when stream is capturing"):
        cuda.capture(cuda.stream(), lambda: None)
    assert library.last_error == 0


def test_a_capture_that_waits_fails_and_the_next_one_works(opened: Any) -> None:
    cuda, library = opened()
    stream = cuda.stream()
    with pytest.raises(RunError, match="not permitted when stream is capturing"):
        cuda.capture(stream, lambda: cuda.synchronize(stream))

    def waits_in_silence() -> None:
        library.cudaStreamSynchronize(ctypes.c_void_p(stream))

    with pytest.raises(RunError, match="previous error during capture"):
        cuda.capture(stream, waits_in_silence)
    assert library.last_error == 0 and library.left() == ["streams"]
    cuda.synchronize(stream)
    cuda.capture(stream, lambda: None)()
    assert len(library.launches) == 1


def test_a_failure_while_capturing_ends_the_capture(opened: Any) -> None:
    cuda, library = opened()
    stream = cuda.stream()
    with pytest.raises(ZeroDivisionError):
        cuda.capture(stream, lambda: 1 // 0)  # type: ignore[arg-type]
    # Neither the graph of the capture nor its error remains.
    assert library.left() == ["streams"] and library.last_error == 0
    cuda.capture(stream, lambda: None).end()
    assert library.left() == ["streams"]


def test_memory_at_the_number_of_a_handle_that_is_gone(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, library = opened()
    stream = cuda.stream()
    cuda.end_stream(stream)
    monkeypatch.setattr("support.fake_cudart._NUMBERS", iter([stream]))
    cuda.free(cuda.malloc(4))
    assert library.left() == []


def test_a_device_that_another_one_displaced(opened: Any) -> None:
    cuda, library = opened(devices=2)
    library.cudaSetDevice(1)
    cuda.use()
    cuda.malloc(4)
    assert set(library.blocks.values()) == {0}


def test_only_the_device_that_is_opened_is_initialized() -> None:
    library = FakeCudart(devices=2)
    open_cuda(1, library=library)
    assert library.flags == {1: 1}


def test_a_cuda_that_is_too_old_for_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """cudaGraphInstantiateWithFlags came with CUDA 11.4."""
    library = FakeCudart()
    cuda = open_cuda(library=library)
    monkeypatch.delattr(FakeCudart, "_graph_instantiate_with_flags")
    stream = cuda.stream()
    with pytest.raises(MissingError, match="this version of CUDA has no cudaGraphInstantiateWithFlags"):
        cuda.capture(stream, lambda: None)
    cuda.end_stream(stream)
    assert library.left() == []


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
    with pytest.raises(RunError, match="CUDA failed: invalid resource handle"):
        cuda.synchronize(stream)


def test_no_such_device_or_binding() -> None:
    with pytest.raises(InputError, match="no GPU 1: CUDA sees 1"):
        open_cuda(1, library=FakeCudart())
    with pytest.raises(InputError, match="one of cuda-python, ctypes, pycuda"):
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

    def Stream(self, flags: int = 0) -> Any:  # noqa: N802
        # CU_STREAM_NON_BLOCKING: any other stream would wait for the default stream.
        assert flags == 1
        return SimpleNamespace(handle=4096, synchronize=lambda: None)

    def Event(self) -> Any:  # noqa: N802
        return SimpleNamespace(record=lambda stream: None, synchronize=lambda: None, time_since=lambda other: 1.5)

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.empty(shape, dtype)

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


def test_pycuda_by_name(pycuda: FakePyCuda) -> None:
    cuda = open_cuda(backend="pycuda")
    assert cuda.name == "pycuda"
    assert cuda.facts() == FACTS
    check_copies_and_events(cuda)
    cuda.close()
    assert pycuda.depth == 0 and not pycuda.left


@pytest.mark.parametrize("name", ["Stream", "Event"])
def test_an_error_of_pycuda_is_one_of_ours(name: str, pycuda: FakePyCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = open_cuda(backend="pycuda")

    def fails(*given: Any) -> Any:
        raise pycuda.Error("cuStreamCreate failed: an illegal memory access was encountered")

    monkeypatch.setattr(pycuda, name, fails)
    with pytest.raises(RunError, match="an illegal memory access was encountered"):
        (cuda.stream if name == "Stream" else cuda.event)()


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


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The libcudarts that are found; no binding is installed."""
    found: list[Any] = []
    for name in ("pycuda", "pycuda.driver", "cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(cudart, "cuda_libraries", lambda: iter(found))
    return found


def test_the_order_of_bindings(libraries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePyCuda()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    # Used if there is nothing else; it has no graphs.
    assert open_cuda().name == "pycuda"
    libraries.append(FakeCudart())
    assert open_cuda().name == "ctypes"
    with pytest.raises(MissingError, match="cuda-python is not installed"):
        open_cuda(backend="cuda-python")
    # The name of the module before 12.6.
    old = FakeCudaPython(libraries[0])
    package = ModuleType("cuda")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "cuda", package)
    monkeypatch.setitem(sys.modules, "cuda.cudart", old)
    assert open_cuda().name == "cuda-python"


def test_a_runtime_newer_than_the_driver_gives_way_to_an_older_one(libraries: list[Any]) -> None:
    libraries += [FakeCudart(runtime=13000), FakeCudart(runtime=12080), FakeCudart(runtime=11080)]
    assert open_cuda().facts()["cuda_runtime"] == "12.8"
    assert device_facts()["cuda_runtime"] == "12.8"
    del libraries[1:]
    with pytest.raises(MissingError, match=r"insufficient for CUDA runtime version \(cudaGetDeviceCount, error 35\)"):
        open_cuda()


def test_a_binding_that_cannot_load_the_driver_gives_way(libraries: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    module = ModuleType("cuda.bindings.runtime")
    module.cudaGetDeviceCount = fails  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", ModuleType("cuda.bindings"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", module)
    with pytest.raises(MissingError, match="no usable GPU: cuda-python does not work here: Failed to dlopen"):
        open_cuda()
    libraries.append(FakeCudart())
    assert open_cuda().name == "ctypes"


def test_the_libraries_of_pip_and_of_unpacked_toolkits_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dlopen searches neither folder; the locations are those of the wheels nvidia-cuda-runtime and -cu12."""
    paths = [
        tmp_path / "site" / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12",
        tmp_path / "site" / "nvidia" / "cu13" / "lib" / "libcudart.so.13",
        tmp_path / "toolkit [x]" / "cuda-11.4" / "lib64" / "libcudart.so.11.0",
    ]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    tried: list[str] = []

    def load(name: str) -> str:
        tried.append(name)
        if not name.startswith("/"):
            raise OSError(name)
        return name

    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), ""])
    monkeypatch.setattr(cuda_library.ctypes, "CDLL", load)
    monkeypatch.setattr(cuda_library.ctypes.util, "find_library", lambda name: None)
    pattern = str(tmp_path / "toolkit ?x?" / "cuda*" / "lib64" / "libcudart.so.*")
    monkeypatch.setattr(cuda_library, "_IN_TOOLKITS", (pattern,))
    assert list(cuda_libraries()) == [str(paths[1]), str(paths[0]), str(paths[2])]
    # Libraries that the loader finds itself come first, and are not loaded again from a file.
    assert tried[0] == "libcudart.so.13"
    monkeypatch.setattr(cuda_library.ctypes, "CDLL", lambda name: name)
    assert list(cuda_libraries()).count(str(paths[1])) == 0


def test_no_libcudart(libraries: list[Any]) -> None:
    for backend in (None, "ctypes"):
        with pytest.raises(MissingError, match="libcudart was not found"):
            open_cuda(backend=backend)
    assert device_facts()["gpu"] == "none: libcudart was not found"


def test_device_facts(libraries: list[Any]) -> None:
    libraries.append(FakeCudart())
    assert {key: value for key, value in device_facts().items() if key != "driver"} == FACTS


@pytest.mark.trt
def test_the_real_library_has_these_calls_and_says_that_there_is_no_gpu() -> None:
    folder = assembled_folder()
    assert folder is not None
    library = ctypes.CDLL(str(next(Path(folder).rglob("libcudart.so.*"))))
    called = [*re.findall(r'"(cuda[A-Z]\w+)"', Path(cudart.__file__).read_text())]
    called += ["cudaGetErrorString", "cudaGetLastError"]
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
