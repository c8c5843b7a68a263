"""The provider that a session actually gets, on a fake onnxruntime that only records calls."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from irepdeploy.board import ort_runner
from irepdeploy.board.cudart import open_cuda
from irepdeploy.board.ort_providers import PROVIDERS, open_session, provider_of
from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import InputError, MissingError
from support.fake_cudart import FakeCudart

CPU, CUDA, TENSORRT, RTX = PROVIDERS


class FakeOnnxruntime:
    """One whose sessions run on `gives`, by default the first provider that they are given."""

    def __init__(self, *available: str, gives: str | None = None, old: bool = False) -> None:
        self.available, self.gives, self.old = available, gives, old
        self.devices: list[Any] = []
        self.registered: list[tuple[str, str]] = []
        self.sessions: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if (name, path) in self.registered:
            raise RuntimeError("registered already")
        self.registered.append((name, path))
        self.devices = [SimpleNamespace(ep_name="CPUExecutionProvider"), SimpleNamespace(ep_name=name)]

    def get_ep_devices(self) -> list[Any]:
        return self.devices

    def InferenceSession(self, model: Any, options: Any, providers: Any = None, enable_fallback: int = 1) -> Any:  # noqa: N802
        first = providers[0][0] if providers else options.devices[0].ep_name
        session = SimpleNamespace(
            providers=providers,
            fallback=self.old or bool(enable_fallback),
            given=enable_fallback,
            get_providers=lambda: [self.gives or first, CPU],
            disable_fallback=lambda: setattr(session, "fallback", False),
        )
        self.sessions.append(session)
        return session


class FakeOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.devices: list[Any] = []

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.devices = devices


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)


def opened(fake: FakeOnnxruntime, name: str, *, tf32: bool = False) -> tuple[Any, FakeOptions]:
    options = FakeOptions()
    return open_session(fake, "m.onnx", options, provider_of(name), tf32=tf32, where="m.onnx"), options


def test_names_are_onnxruntimes() -> None:
    assert list(PROVIDERS) == [
        "CPUExecutionProvider",
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
        "NvTensorRTRTXExecutionProvider",
    ]
    with pytest.raises(InputError, match="unknown provider 'cuda'"):
        provider_of("cuda")


@pytest.mark.parametrize(("tf32", "word"), [(False, "0"), (True, "1")])
def test_cuda_is_told_about_tf32_and_nothing_falls_back(tf32: bool, word: str) -> None:
    session, options = opened(FakeOnnxruntime(CUDA, CPU), CUDA, tf32=tf32)
    assert session.providers == [(CUDA, {"use_tf32": word})]
    assert not session.fallback
    assert options.entries == {"session.disable_cpu_ep_fallback": "1"}


def test_older_ones_are_told_afterwards_that_nothing_falls_back() -> None:
    session, _ = opened(FakeOnnxruntime(CUDA, old=True), CUDA)
    assert not session.fallback
    assert session.given == 0


def test_the_cpu_has_neither() -> None:
    session, options = opened(FakeOnnxruntime(CPU), CPU)
    assert session.providers == [(CPU, {})]
    assert not session.fallback
    assert options.entries == {}


@pytest.mark.parametrize("name", [TENSORRT, RTX])
def test_tensorrt_rounds_unless_the_environment_forbids_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeOnnxruntime(name)
    with pytest.raises(InputError, match="no option to disable TF32") as caught:
        opened(fake, name)
    assert "NVIDIA_TF32_OVERRIDE=0" in caught.value.hint
    assert opened(fake, name, tf32=True)[0].providers == [(name, {})]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(InputError):
        opened(fake, name)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert opened(fake, name)[0].providers == [(name, {})]


@pytest.mark.parametrize("name", [CUDA, TENSORRT])
def test_another_provider_in_its_place_is_an_error(name: str) -> None:
    for other in {CPU, CUDA} - {name}:
        with pytest.raises(MissingError, match=f"fell back from {name} to {other}"):
            opened(FakeOnnxruntime(name, gives=other), name, tf32=True)


@pytest.mark.parametrize(
    ("name", "line"), [(CUDA, "onnxruntime-gpu"), (TENSORRT, "TensorRT"), (RTX, "onnxruntime-ep-nv-tensorrt-rtx")]
)
def test_a_provider_that_is_not_there(name: str, line: str) -> None:
    # Before any message about TF32.
    with pytest.raises(MissingError, match=f"{name} is not part of the installed") as caught:
        opened(FakeOnnxruntime(CPU), name, tf32=False)
    assert line in caught.value.hint
    assert "here: CPUExecutionProvider" in caught.value.hint


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    module.get_library_path = lambda: "/lib/ep.so"  # type: ignore[attr-defined]
    module.get_ep_name = lambda: "nv_tensorrt_rtx"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_plugin_is_registered_once_and_its_devices_are_taken(plugin: None) -> None:
    fake = FakeOnnxruntime(CPU)
    for _ in range(2):
        session, options = opened(fake, RTX, tf32=True)
        assert [device.ep_name for device in options.devices] == ["nv_tensorrt_rtx"]
        assert session.providers is None
        assert not session.fallback
    assert fake.registered == [("nv_tensorrt_rtx", "/lib/ep.so")]


def test_a_plugin_without_a_device_or_with_the_cpu_in_its_place(plugin: None) -> None:
    fake = FakeOnnxruntime(CPU)
    fake.register_execution_provider_library = lambda name, path: None  # type: ignore[method-assign]
    with pytest.raises(MissingError, match="finds no device"):
        opened(fake, RTX, tf32=True)
    with pytest.raises(MissingError, match="fell back"):
        opened(FakeOnnxruntime(CPU, gives=CPU), RTX, tf32=True)


class FakeBinding:
    def __init__(self) -> None:
        self.outputs: dict[str, str] = {}
        self.places: dict[str, Any] = {}
        self.synchronized = 0

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self.inputs = {name: array}

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: list[int], pointer: int) -> None:
        # Now, and not in the run: IOBinding::BindInput calls CopyOneInputAcrossDevices.
        assert (device, number, shape) == ("cpu", 0, [1, 2])
        self.inputs = {name: _at(pointer, dtype, shape).copy()}
        self.places[name] = pointer

    def bind_output(self, name: str, device: str, *rest: Any) -> None:
        self.outputs[name] = device
        if rest:
            number, dtype, shape, pointer = rest
            assert number == 0
            self.places[name] = pointer
            self.output = _at(pointer, dtype, shape)

    def synchronize_outputs(self) -> None:
        self.synchronized += 1


class FakeSession:
    """One on a GPU that counts its runs, with and without transfers."""

    def __init__(self) -> None:
        self.runs, self.bound_runs, self.binding = 0, 0, FakeBinding()

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input", type="tensor(float)", shape=["N", 2])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="logits")]

    def io_binding(self) -> FakeBinding:
        return self.binding

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        self.bound_runs += 1
        if binding.outputs["logits"] == "cpu":
            binding.output[...] = binding.inputs["input"] * 2

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        self.runs += 1
        return [feeds["input"] * 2]


def _at(pointer: int, dtype: Any, shape: list[int]) -> Any:
    count = int(np.prod(shape))
    memory = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(pointer)
    return np.frombuffer(memory, dtype).reshape(shape)


def test_a_bound_call_without_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    session = FakeSession()
    monkeypatch.setattr(ort_runner, "open_session", lambda *given, **settings: session)
    with OrtRunner(b"model", provider=CUDA) as runner:
        described = runner.describe()
        assert (described["device"], described["transfers"], described["tf32"]) == ("cuda", "excluded", False)
        call = runner.bind({"input": np.ones((1, 2), "float32")})
        before = session.bound_runs
        assert call() is None
        assert (session.runs, session.bound_runs) == (0, before + 1)
        assert session.binding.outputs == {"logits": "cuda"}
        # Without this, the call would return before the GPU is done.
        assert session.binding.synchronized == 1


def test_a_bound_call_with_transfers_copies_in_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    session, cuda = FakeSession(), FakeCudart()
    monkeypatch.setattr(ort_runner, "open_session", lambda *given, **settings: session)
    monkeypatch.setattr(ort_runner, "open_cuda", lambda: open_cuda(library=cuda))
    with OrtRunner(b"model", provider=CUDA, transfers="included") as runner:
        described = runner.describe()
        assert (described["transfers"], described["host_memory"]) == ("included", "page-locked")
        call = runner.bind({"input": np.ones((1, 2), "float32")})
        assert set(session.binding.places.values()) == set(cuda.pinned)
        before, session.binding.inputs, session.binding.output[...] = session.bound_runs, {}, 0
        call()
        assert session.bound_runs == before + 1 and session.binding.synchronized == 2
        np.testing.assert_array_equal(session.binding.output, [[2, 2]])
        runner.bind({"input": np.ones((1, 2), "float32")})
    assert cuda.left() == []


def test_the_real_binding_takes_what_the_fake_one_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, where a call with transfers is not asked for."""
    node = helper.make_node("Add", ["input", "input"], ["logits"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in ("input", "logits")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    monkeypatch.setattr(ort_runner, "open_cuda", lambda: open_cuda(library=FakeCudart()))
    with OrtRunner(model.SerializeToString()) as runner:
        runner._bind_transfers({"input": np.array([[1, 2], [3, 4]], "float32")})()
        np.testing.assert_array_equal(runner._hosts[0], [[2, 4], [6, 8]])


def test_invalid_transfers() -> None:
    with pytest.raises(InputError, match="transfers 'half'"), OrtRunner(b"model", transfers="half"):
        pass
