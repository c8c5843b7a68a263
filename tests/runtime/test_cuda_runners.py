"""GPU runners: complete tests if there is a GPU, otherwise everything that can be tested without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import Runner, TensorSpec
from irepdeploy.errors import InputError, MissingError, RunError
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.runtime.torch_compile_runner import TorchCompileRunner
from irepdeploy.runtime.torch_graph_runner import TorchGraphRunner
from irepdeploy.runtime.torch_runner import TorchRunner
from irepdeploy.runtime.torch_settings import check_settings, cuda_arithmetic, torch_settings
from irepdeploy.testing.runner_contract import RunnerCase, RunnerContract

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
FEEDS = {"input": np.random.default_rng(0).standard_normal((2, 12)).astype("float32")}
SPEC = TensorSpec("input", (None, 12))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5)).eval()


def reference() -> dict[str, np.ndarray]:
    with torch.inference_mode():
        return {"logits": network()(torch.from_numpy(FEEDS["input"])).numpy()}


def onnx_bytes() -> bytes:
    net = network()
    weights = {"w0": net[0].weight.T, "b0": net[0].bias, "w1": net[2].weight.T, "b1": net[2].bias}
    steps = [("Gemm", ["input", "w0", "b0"]), ("Relu", ["y0"]), ("Gemm", ["y1", "w1", "b1"])]
    names = ["y0", "y1", "logits"]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, given, [name]) for (op, given), name in zip(steps, names, strict=True)],
        "small",
        [onnx.helper.make_tensor_value_info("input", kind, ["N", 12])],
        [onnx.helper.make_tensor_value_info("logits", kind, ["N", 5])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(value.detach().numpy()), name)
            for name, value in weights.items()
        ],
    )
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def runner_of(kind: str, **settings: Any) -> Runner:
    torches = {"torch": TorchRunner, "torch-compile": TorchCompileRunner, "torch-graph": TorchGraphRunner}
    if kind in torches:
        return torches[kind](network(), [SPEC], ["logits"], device="cuda", **settings)
    if kind not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {kind}")
    return OrtRunner(onnx_bytes(), provider=kind, **settings)


@needs_cuda
@pytest.mark.parametrize("transfers", ["excluded", "included"])
@pytest.mark.parametrize(
    "kind", ["torch", "torch-compile", "torch-graph", "CUDAExecutionProvider", "TensorrtExecutionProvider"]
)
class TestCudaRunner(RunnerContract):
    @pytest.fixture
    def case(self, kind: str, transfers: str) -> RunnerCase:
        tf32 = kind == "TensorrtExecutionProvider"
        runner = runner_of(kind, transfers=transfers, tf32=tf32)
        feeds = {name: array.copy() for name, array in FEEDS.items()}
        return RunnerCase(runner, feeds, reference(), rtol=1e-2 if tf32 else 1e-4)

    def test_says_that_it_is_on_the_gpu_and_what_a_call_contains(self, case: RunnerCase, transfers: str) -> None:
        with case.runner as runner:
            described = runner.describe()
            call = runner.bind(case.feeds)
            call()
            assert described["device"].startswith("cuda")
            assert described["transfers"] == transfers
            assert described["tf32"] in (True, False)
            if described["runner"].startswith("torch"):
                assert call.device_ns() > 0


@needs_cuda
def test_a_graph_replays_and_does_not_run_the_module() -> None:
    net, calls = network(), []
    net.register_forward_hook(lambda *given: calls.append(1))
    with TorchGraphRunner(net, [SPEC], ["logits"]) as runner:
        call = runner.bind(FEEDS)
        before = len(calls)
        call()
        assert len(calls) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu() -> None:
    with pytest.raises(MissingError, match="cannot be used"), TorchGraphRunner(network(), [SPEC], ["logits"]):
        pass


def test_graphs_are_cudas() -> None:
    with (
        pytest.raises(InputError, match="expected a CUDA device, got cpu"),
        TorchGraphRunner(network(), [SPEC], ["logits"], device="cpu"),
    ):
        pass


class FakeGpu:
    """torch's GPUs as far as a bound call uses them, on the CPU: `seen` is what happened, in order.

    As torch does, an event and a graph take the current device unless they are given a stream (torch/cuda/streams.py,
    torch/cuda/graphs.py; the stream of the first capture is kept for all later ones). The runner is on `cuda:1`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.current = 0
        self.used: set[int] = set()
        self.pinned: list[torch.Tensor] = []
        gpu, seen = self, self.seen

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                gpu.used.add(gpu.current)
                seen.append("event")

            def elapsed_time(self, end: Event) -> float:
                return 0.25

        class Graph:
            def replay(self) -> None:
                seen.append("replay")

        @contextlib.contextmanager
        def current(device: Any) -> Iterator[None]:
            before, gpu.current = gpu.current, device.index
            yield
            gpu.current = before

        def stream(device: Any = None) -> Any:
            return SimpleNamespace(
                wait_stream=lambda other: None, index=gpu.current if device is None else device.index
            )

        @contextlib.contextmanager
        def capture(graph: Graph, stream: Any = None) -> Iterator[None]:
            with current(stream or SimpleNamespace(index=0)):
                gpu.used.add(gpu.current)
                yield

        def pin(tensor: torch.Tensor) -> torch.Tensor:
            gpu.pinned.append(tensor)
            return tensor

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", stream)
        monkeypatch.setattr(torch.cuda, "stream", current)
        monkeypatch.setattr(torch.cuda, "device", current)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: seen.append("wait"))
        monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
        copy = torch.Tensor.copy_
        # On a GPU this is different memory.
        monkeypatch.setattr(torch.Tensor, "cpu", torch.Tensor.clone)

        def copies(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            # From and to pageable memory the host takes part.
            assert non_blocking
            host = [each for each in (to, source) if any(each is pinned for pinned in gpu.pinned)]
            seen.append("no page-locked memory" if not host else "out" if host[0] is to else "in")
            return copy(to, source)

        monkeypatch.setattr(torch.Tensor, "copy_", copies)

    def take(self, runner: TorchRunner) -> None:
        """Make an active runner behave as if it were on the second fake GPU."""
        runner._on_cuda, runner._device = True, SimpleNamespace(type="cuda", index=1)
        runner._to_device = lambda feeds: [torch.from_numpy(feeds["input"])]


@pytest.mark.parametrize("kind", [TorchRunner, TorchGraphRunner])
@pytest.mark.parametrize("transfers", ["excluded", "included"])
def test_what_a_bound_call_contains(kind: type[TorchRunner], transfers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, net = FakeGpu(monkeypatch), network()
    net.register_forward_hook(lambda *given: gpu.seen.append("run"))
    monkeypatch.setattr(TorchGraphRunner, "_activate", TorchRunner._activate)
    with kind(net, [SPEC], ["logits"], device="cpu", transfers=transfers) as runner:
        gpu.take(runner)
        call = runner.bind(FEEDS)
        gpu.seen.clear()
        call()
        run = "run" if kind is TorchRunner else "replay"
        around = [["in"], ["out"]] if transfers == "included" else [[], []]
        # The events stand around the network alone, and the host waits for all of it.
        assert gpu.seen == [*around[0], "event", run, "event", *around[1], "wait"]
        assert call.device_ns() == 250_000
        # Everything is on the runner's device, and the current device is restored.
        assert gpu.used == {1} and gpu.current == 0
        if transfers == "included":
            np.testing.assert_allclose(gpu.pinned[-1].numpy(), reference()["logits"], rtol=1e-5)


def test_running_out_of_memory_in_a_capture_is_not_a_network_that_cannot_be_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(monkeypatch)
    monkeypatch.setattr(TorchGraphRunner, "_activate", TorchRunner._activate)

    @contextlib.contextmanager
    def full(graph: Any, stream: Any = None) -> Iterator[None]:
        yield
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch.cuda, "graph", full)
    with TorchGraphRunner(network(), [SPEC], ["logits"], device="cpu") as runner:
        gpu.take(runner)
        with pytest.raises(RunError, match=r"out of memory: .* \(use a smaller batch"):
            runner.bind(FEEDS)


def state() -> tuple[object, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.allow_tf32, matmul.allow_tf32, cudnn.conv.fp32_precision, matmul.fp32_precision, cudnn.benchmark


@pytest.mark.parametrize("tf32", [False, True])
def test_arithmetic_is_set_and_given_back(tf32: bool) -> None:
    before, threads = state(), torch.get_num_threads()
    with torch_settings(threads=threads + 1, cuda=True, tf32=tf32):
        assert set(cuda_arithmetic().values()) == {tf32, True}
        assert state()[:2] == (tf32, tf32)
        assert torch.get_num_threads() == threads + 1
        check_settings(threads=threads + 1, cuda=True, tf32=tf32, where="a")
        with torch_settings(cuda=True, tf32=not tf32), pytest.raises(InputError, match="expected TF32 to be") as caught:
            check_settings(cuda=True, tf32=tf32, where="a")
        assert "must agree" in caught.value.hint
        assert state()[:2] == (tf32, tf32)
    assert state() == before
    assert torch.get_num_threads() == threads


def _read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RuntimeError:
        return "raises"


def readings() -> list[Any]:
    """Return what every way of reading the settings gives; torch raises where older and newer names disagree."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return [
        _read(get)
        for get in (
            torch.get_float32_matmul_precision,
            lambda: matmul.allow_tf32,
            lambda: cudnn.allow_tf32,
            lambda: (matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision),
            lambda: torch.backends.mkldnn.matmul.fp32_precision,
        )
    ]


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("asked", ["high", "medium", "highest"])
def test_settings_agree_after_set_float32_matmul_precision(asked: str, tf32: bool) -> None:
    original = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(asked)
    try:
        before = readings()
        with torch_settings(cuda=True, tf32=tf32):
            # torch.compile reads them all.
            assert "raises" not in readings() and readings()[:3] == ["high" if tf32 else "highest", tf32, tf32]
            with exact_arithmetic():
                assert "raises" not in readings() and not cuda_arithmetic()["tf32"]
            check_settings(cuda=True, tf32=tf32, where="a")
        assert readings() == before
    finally:
        torch.set_float32_matmul_precision(original)


def test_nothing_of_the_gpu_is_touched_for_a_network_on_the_cpu() -> None:
    before = state()
    with torch_settings(threads=1):
        assert state() == before
        check_settings(threads=1, tf32=True, where="a")


def test_names_that_contradict_each_other_are_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"
    try:
        with torch_settings(cuda=True, tf32=True):
            assert cuda_arithmetic()["tf32"] and cudnn.allow_tf32
        assert cudnn.conv.fp32_precision == "ieee"
    finally:
        cudnn.conv.fp32_precision = before
    assert cudnn.allow_tf32 in (True, False)
