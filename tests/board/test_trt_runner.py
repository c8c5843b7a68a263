"""TrtRunner on a fake TensorRT and a fake libcudart that compute in host memory, since no engine can run here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from irepdeploy.board import trt_runner
from irepdeploy.board.cudart import open_cuda
from irepdeploy.board.engine_builder import EngineOptions, build_plan
from irepdeploy.board.sidecar import sidecar_path
from irepdeploy.board.trt_library import TensorrtLibrary, logger_of
from irepdeploy.board.trt_runner import TrtRunner
from irepdeploy.cli import main
from irepdeploy.errors import InputError, MissingError, ModelError, RunError
from irepdeploy.files import write_json
from irepdeploy.testing import RunnerContract
from irepdeploy.testing.runner_contract import RunnerCase
from support.engine_sidecar import make_sidecar
from support.fake_cudart import FakeCudart
from support.fake_tensorrt import VERSIONS, FakeTensorrt, Severity

DESCRIBED = {"gpu": "Fake GPU", "precision": "fp32", "command": "irepdeploy export model.onnx --target trt"}


class Place:
    """A machine with a fake GPU and a fake TensorRT, and an engine on it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = folder / "model.engine"
        self.cuda = FakeCudart()
        self.trt = FakeTensorrt("10.3.0.26")
        monkeypatch.setattr(trt_runner, "load_tensorrt", lambda flavour: self.library)
        monkeypatch.setattr(trt_runner, "open_cuda", lambda device, backend: open_cuda(device, library=self.cuda))

    @property
    def library(self) -> TensorrtLibrary:
        return TensorrtLibrary(self.trt, "tensorrt", self.trt.__version__, False)

    def build(self, batch: int | str = 2, dtypes: tuple[str, ...] = ("FLOAT",), **changes: Any) -> None:
        names = [f"x{index}" for index in range(len(dtypes))]
        kinds = [getattr(onnx.TensorProto, "FLOAT16" if dtype == "HALF" else dtype) for dtype in dtypes]
        takes = [
            onnx.helper.make_tensor_value_info(name, kind, (batch, 3, 4, 4))
            for name, kind in zip(names, kinds, strict=True)
        ]
        gives = [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (batch, 5))]
        nodes = [onnx.helper.make_node("Relu", [name], ["logits"]) for name in names]
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", takes, gives))
        profile = [[size, 3, 4, 4] for size in (1, 2, 8)] if batch == "n" else None
        profiles = dict.fromkeys(names, (profile[0], profile[1], profile[2])) if profile else {}
        plan, _, facts = build_plan(
            self.library, model.SerializeToString(), EngineOptions(profiles=profiles), messages=[]
        )
        self.engine.write_bytes(plan)
        described = {**DESCRIBED, "tensorrt_version": self.trt.__version__, "typing": facts["typing"], **changes}
        write_json(sidecar_path(self.engine), make_sidecar(plan, **described).to_dict())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def feeds(batch: int = 2) -> dict[str, Any]:
    return {"x0": np.random.default_rng(0).standard_normal((batch, 3, 4, 4)).astype(np.float32)}


def expected(given: dict[str, Any]) -> dict[str, Any]:
    total = sum(array.reshape(len(array), -1).astype(np.float64).sum(1, keepdims=True) for array in given.values())
    return {"logits": (total * np.arange(1, 6)).astype(np.float32)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("graph", [False, True])
class TestTrtRunner(RunnerContract):
    @pytest.fixture
    def case(self, place: Place, version: str, graph: bool) -> RunnerCase:
        place.trt = FakeTensorrt(version)
        place.build()
        return RunnerCase(TrtRunner(place.engine, cuda_graph=graph), feeds(), expected(feeds()))


def test_everything_is_given_back(place: Place) -> None:
    place.build()
    with TrtRunner(place.engine) as runner:
        runner.bind(feeds())
        for _ in range(3):
            runner.infer(feeds())
        # One input and one output belong to the bound call.
        assert len(place.cuda.blocks) == 2
    assert place.cuda.left() == []


@pytest.mark.parametrize("graph", [False, True])
def test_so_are_graphs_events_and_the_hosts_memory(place: Place, graph: bool) -> None:
    place.build(batch="n")
    with TrtRunner(place.engine, cuda_graph=graph, transfers="included") as runner:
        call = runner.bind(feeds(2))
        for batch in (3, 4):
            runner.infer(feeds(batch))
            call()
        # Each capture replaces the previous one.
        assert len(place.cuda.execs) == graph and not place.cuda.graphs
        assert len(place.cuda.events) == 2 and len(place.cuda.pinned) == 2
    assert place.cuda.left() == []


def test_inputs_of_several_types_and_any_batch(place: Place) -> None:
    place.build(batch="n", dtypes=("FLOAT", "UINT8", "HALF"))
    with TrtRunner(place.engine) as runner:
        assert [str(spec) for spec in runner.inputs] == ["x0 float32 ?x3x4x4", "x1 uint8 ?x3x4x4", "x2 float16 ?x3x4x4"]
        for batch in (1, 8, 3):
            given = {
                spec.name: (np.arange(batch * 48) % 7).reshape(batch, 3, 4, 4).astype(spec.dtype)
                for spec in runner.inputs
            }
            np.testing.assert_allclose(runner.infer(given)["logits"], expected(given)["logits"], rtol=1e-6)
        with pytest.raises(InputError, match="outside the engine's profile"):
            runner.infer({name: np.repeat(array, 3, 0) for name, array in given.items()})
        runner.infer(given)


def test_a_bound_call_keeps_its_inputs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build(batch="n")
    with TrtRunner(place.engine) as runner:
        call = runner.bind(feeds(2))
        bound = dict(runner._context.addresses)
        runner.infer(feeds(5))
        assert runner._context.addresses != bound
        call()
        assert runner._context.addresses == bound and runner._context.get_tensor_shape("logits") == (2, 5)


@pytest.mark.parametrize("graph", [False, True])
def test_a_bound_call_computes_what_it_was_bound_to(place: Place, graph: bool) -> None:
    """With transfers, outputs are copied back, also from a graph, and after other shapes ran in between."""
    place.build(batch="n")
    with TrtRunner(place.engine, cuda_graph=graph, transfers="included") as runner:
        call = runner.bind(feeds(2))
        for _ in range(2):
            runner._hosts[-1][...] = 0
            call()
            np.testing.assert_allclose(runner._hosts[-1], expected(feeds(2))["logits"], rtol=1e-6)
            np.testing.assert_allclose(runner.infer(feeds(5))["logits"], expected(feeds(5))["logits"], rtol=1e-6)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("refuses", "failed: TensorRT 10.3.0.26 cannot run this engine: this engine cannot be captured"),
        ("waits", "failed: TensorRT 10.3.0.26 cannot run this engine: Cuda Runtime (operation not permitted"),
    ],
)
def test_an_engine_that_cannot_be_captured_runs_without_a_graph(place: Place, fails: str, said: str) -> None:
    place.build()
    place.trt.captured = fails
    with TrtRunner(place.engine, cuda_graph=True, transfers="included") as runner:
        call = runner.bind(feeds())
        assert runner.describe()["cuda_graph"].startswith(said)
        call()
        np.testing.assert_allclose(runner._hosts[-1], expected(feeds())["logits"], rtol=1e-6)
        # No error remains that a later check, for example by torch, would attribute to itself.
        assert place.cuda.last_error == 0 and not place.cuda.launches
    assert place.cuda.left() == []


def test_a_failed_run_quotes_what_was_said_about_it_alone(place: Place) -> None:
    place.build()
    with TrtRunner(place.engine) as first, TrtRunner(place.engine) as second:
        place.trt.runs = "the first one's reason"
        with pytest.raises(ModelError, match="cannot run this engine: the first one's reason"):
            first.infer(feeds())
        place.trt.runs = "the second one's"
        with pytest.raises(ModelError, match=r"cannot run this engine: the second one's \(build"):
            second.infer(feeds())


def test_a_call_that_failed_after_other_inputs_can_be_made_again(place: Place) -> None:
    place.build(batch="n")
    with TrtRunner(place.engine, cuda_graph=True, transfers="included") as runner:
        call = runner.bind(feeds(2))
        runner.infer(feeds(5))
        place.trt.runs = "out of luck"
        for _ in range(2):
            with pytest.raises(ModelError, match="out of luck"):
                call()
        place.trt.runs = None
        call()
        np.testing.assert_allclose(runner._hosts[-1], expected(feeds(2))["logits"], rtol=1e-6)
        assert len(place.cuda.execs) == 1
    assert place.cuda.left() == []


def test_a_gpu_that_broke_leaves_nothing_in_this_process(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build()
    runner = TrtRunner(place.engine, cuda_graph=True)
    with pytest.raises(RunError, match="CUDA failed: unknown error"), runner:
        runner.bind(feeds())
        for name in ("_graph_exec_destroy", "_event_destroy", "_free", "_stream_destroy"):
            monkeypatch.setattr(place.cuda, name, lambda *given: 700)
    assert runner._context is None and not logger_of(place.trt, print).keeps[:-1]


def test_a_runtime_that_cannot_be_made(place: Place) -> None:
    place.build()

    def nothing(logger: Any) -> Any:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    place.trt.Runtime = nothing
    with pytest.raises(MissingError, match="no usable GPU: CUDA initialization failure"), TrtRunner(place.engine):
        pass
    assert place.cuda.left() == [] and not logger_of(place.trt, print).keeps[:-1]


def test_several_devices(place: Place) -> None:
    """An engine runs on its own device, whatever the current device is."""
    place.build(batch="n")
    place.cuda = FakeCudart(devices=2)
    with TrtRunner(place.engine, device=1, cuda_graph=True) as on_1, TrtRunner(place.engine, device=0) as on_0:
        call = on_1.bind(feeds(2))
        for batch in (1, 3):
            on_0.infer(feeds(batch))
            call()
            np.testing.assert_allclose(on_1.infer(feeds(2))["logits"], expected(feeds(2))["logits"], rtol=1e-6)
        assert set(place.cuda.blocks.values()) == {1}
        on_0.infer(feeds(1))
    assert place.cuda.left() == []


@pytest.mark.parametrize("core", [None, 0, 1])
def test_a_dla_engine_is_loaded_for_the_core_that_it_was_built_for(place: Place, core: int | None) -> None:
    place.build(settings={"dla_core": core})
    with TrtRunner(place.engine) as runner:
        assert runner.describe().get("dla_core") == core
    assert ("deserialize", core or 0) in place.trt.calls


@pytest.mark.parametrize(("captures", "said"), [(True, "captured"), (False, "failed: CUDA failed: operation not")])
def test_says_what_became_of_the_graph(place: Place, captures: bool, said: str) -> None:
    place.build()
    place.cuda = FakeCudart(captures=captures)
    with TrtRunner(place.engine, cuda_graph=True) as runner:
        assert runner.describe()["cuda_graph"] == "not asked for"
        runner.bind(feeds())()
        assert runner.describe()["cuda_graph"].startswith(said)
        assert len(place.cuda.launches) == int(captures)


def test_a_graph_is_captured_again_after_other_inputs(place: Place) -> None:
    place.build(batch="n")
    with TrtRunner(place.engine, cuda_graph=True) as runner:
        call = runner.bind(feeds(2))
        call()
        call()
        runner.infer(feeds(5))
        call()
        call()
    first, again, other, last = place.cuda.launches
    assert first == again != other == last


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("transfers", "copies"), [("excluded", []), ("included", [1, 2])])
def test_what_a_bound_call_contains_and_what_the_device_times(
    place: Place, transfers: str, copies: list[int], graph: bool
) -> None:
    place.build()
    done: list[int] = []
    copy, record = place.cuda._memcpy_async, place.cuda._event_record
    place.cuda._memcpy_async = lambda *given: done.append(given[3]) or copy(*given)
    place.cuda._event_record = lambda *given: done.append(0) or record(*given)
    with TrtRunner(place.engine, cuda_graph=graph, transfers=transfers) as runner:
        assert runner.describe()["transfers"] == transfers
        execute, launch = runner._context.execute_async_v3, place.cuda._graph_launch
        runner._context.execute_async_v3 = lambda stream: done.append(9) or execute(stream)
        place.cuda._graph_launch = lambda *given: done.append(9) or launch(*given)
        call = runner.bind(feeds())
        done.clear()
        call()
        # The events enclose the inference only, not the copies before and after it.
        assert done == [*copies[:1], 0, 9, 0, *copies[1:]]
        assert call.device_ns() == 1_500_000
    with pytest.raises(InputError, match="transfers 'both'"), TrtRunner(place.engine, transfers="both"):
        pass


def test_describes_engine_gpu_and_binding(place: Place) -> None:
    place.build(tf32=True, precision="fp16")
    with TrtRunner(place.engine) as runner:
        described = runner.describe()
    assert described["provider"] == "TensorRT" and described["version"] == "10.3.0.26"
    assert (described["precision"], described["typing"], described["tf32"]) == ("fp16", "strong", True)
    assert described["gpu"]["name"] == "Fake GPU" and described["cuda_binding"] == "ctypes"
    # By default, a Tegra may block and wake up only some time after the GPU is done.
    assert described["host_waits"] == "spin" and place.cuda.flags == {0: 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute_capability": "7.2"}, r"built for compute capability 7\.2 \(Fake GPU\), but the GPU here has 8\.0"),
        ({"tensorrt_version": "8.5.2.2"}, r"built with TensorRT 8\.5\.2\.2, which TensorRT 10\.3\.0\.26 cannot load"),
        ({"engine_sha256": "0" * 64}, "the digest differs"),
        ({"size_bytes": 1 << 20}, "truncated"),
    ],
)
def test_refuses_what_its_sidecar_rules_out(place: Place, changes: dict[str, Any], reason: str) -> None:
    place.build(**changes)
    place.trt.loads = "must not be asked"
    with pytest.raises(InputError, match=reason) as caught, TrtRunner(place.engine):
        pass
    assert caught.value.hint == "build it again: irepdeploy export model.onnx --target trt"
    assert not place.cuda.streams
    # Without a GPU, the errors that do not concern the GPU are the same.
    place.cuda = FakeCudart(devices=0)
    expected = MissingError if "compute_capability" in changes else InputError
    with pytest.raises(expected), TrtRunner(place.engine):
        pass


def test_without_a_sidecar(place: Place) -> None:
    place.build()
    Path(sidecar_path(place.engine)).unlink()
    with pytest.raises(InputError, match=r"no model\.engine\.json next to"), TrtRunner(place.engine):
        pass
    with TrtRunner(place.engine, require_sidecar=False) as runner:
        assert runner.describe()["precision"] == "unknown"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            "The engine plan file is generated on an incompatible device, expecting compute 8.0 got compute 7.2",
            ModelError,
        ),
        ("Error Code 2: OutOfMemory (Requested size was 1234 bytes.)", RunError),
        ("CUDA initialization failure with error: 35", MissingError),
    ],
)
def test_an_engine_that_tensorrt_refuses(place: Place, said: str, error: type[Exception]) -> None:
    place.build()
    place.trt.loads = said
    with pytest.raises(error, match=said[:20]), TrtRunner(place.engine):
        pass
    assert not place.cuda.streams


def test_no_engine_no_tensorrt_no_gpu(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such engine"), TrtRunner(place.engine):
        pass
    place.build()
    place.cuda = FakeCudart(devices=0)
    with pytest.raises(MissingError, match="no CUDA-capable device"), TrtRunner(place.engine):
        pass
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingError, match="TensorRT"), TrtRunner(place.engine):
        pass


def test_a_gpu_that_is_too_small(place: Place) -> None:
    place.build()
    place.cuda = FakeCudart(memory=400)
    with TrtRunner(place.engine) as runner:
        place.cuda.memory = 100
        with pytest.raises(RunError, match="out of memory"):
            runner.infer(feeds())
        assert not place.cuda.blocks


def test_verify_takes_engines(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.build()
    pair = [str(place.engine)] * 2
    assert main(["verify", *pair]) == 0 and "64 photographs" in capsys.readouterr().out
    for changes, reason in (
        ({"compute_capability": "7.2"}, "but the GPU here has 8.0"),
        ({"tensorrt_version": "8.5.2.2"}, "cannot load"),
        ({"size_bytes": 1 << 20}, "truncated"),
    ):
        place.build(**changes)
        assert main(["verify", *pair]) == 2
        err = capsys.readouterr().err
        assert reason in err and "build it again: irepdeploy export" in err and err.count("\n") == 1
    place.build()
    place.cuda = FakeCudart(devices=0)
    assert main(["verify", *pair]) == 3


def test_bench_says_that_an_engine_is_timed_without_a_graph(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.build()
    words = ["bench", str(place.engine), "--seconds", "0"]
    assert main(words) == 0 and "no CUDA graph" not in capsys.readouterr().err
    place.trt.captured = "refuses"
    assert main(words) == 0
    assert "model: no CUDA graph, its launches are timed too: failed: TensorRT" in capsys.readouterr().err


@pytest.mark.trt
def test_a_real_engine_is_not_run_here(tmp_path: Path) -> None:
    """On a machine without a GPU the error says so; with one, the result depends on that machine."""
    from irepdeploy.board.cudart import device_facts
    from irepdeploy.board.runner import TensorSpec
    from irepdeploy.export.engine.engine import build_engine
    from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
    from support.networks import random_network

    if "name" in device_facts():
        pytest.skip("there is a GPU")
    content = serialized(onnx_from_torch(random_network(), [TensorSpec("input", (1, 1, 16, 16))], ["logits"]))
    build_engine(content, tmp_path / "m.engine", flavour="tensorrt_rtx")
    with pytest.raises(MissingError, match=r"no usable GPU|libcudart was not found"), TrtRunner(tmp_path / "m.engine"):
        pass
    (tmp_path / "m.engine").write_bytes((tmp_path / "m.engine").read_bytes()[:1000])
    with pytest.raises(InputError, match="truncated: 1000 of"), TrtRunner(tmp_path / "m.engine"):
        pass
