from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import InputError, MissingError, ModelError
from irepdeploy.testing.runner_contract import RunnerCase, RunnerContract

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((12, 5)).astype("float32")
FEEDS = {"input": RNG.standard_normal((2, 12)).astype("float32")}


def small_model(operator: str = "MatMul", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """relu(input @ weight), the batch free."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["input", "weight"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["logits"])],
        "small",
        [helper.make_tensor_value_info("input", dtype, ["batch", 12])],
        [helper.make_tensor_value_info("logits", dtype, ["batch", 5])],
        [numpy_helper.from_array(WEIGHT.astype(helper.tensor_dtype_to_np_dtype(dtype)), "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    onnx.save(small_model(), path)
    return path


def case_of(model: str | Path | bytes) -> RunnerCase:
    feeds = {name: array.copy() for name, array in FEEDS.items()}
    return RunnerCase(OrtRunner(model), feeds, {"logits": np.maximum(FEEDS["input"] @ WEIGHT, 0)})


class TestOrtRunnerFromFile(RunnerContract):
    @pytest.fixture
    def case(self, path: Path) -> RunnerCase:
        return case_of(path)


class TestOrtRunnerFromBytes(RunnerContract):
    @pytest.fixture
    def case(self) -> RunnerCase:
        return case_of(small_model().SerializeToString())


def test_describes_the_session(path: Path) -> None:
    with OrtRunner(str(path), threads=2, spinning=False, precision="fp32") as runner:
        assert runner.inputs[0].shape == (None, 12)
        assert runner.describe() == {
            "runner": "ort",
            "provider": "CPUExecutionProvider",
            "device": "cpu",
            "threads": 2,
            "inter_op_threads": 1,
            "spinning": False,
            "graph_optimization": "all",
            "precision": "fp32",
            "transfers": "none",
            "version": onnxruntime.__version__,
        }


def test_session_lives_only_inside_with(path: Path) -> None:
    with OrtRunner(path) as runner:
        assert runner._session is not None
    assert runner._session is None


def test_bound_inputs_stay_fixed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = []
    real = onnxruntime.IOBinding.bind_cpu_input

    def spy(self: onnxruntime.IOBinding, name: str, array: np.ndarray) -> None:
        bound.append(array)
        real(self, name, array)

    monkeypatch.setattr(onnxruntime.IOBinding, "bind_cpu_input", spy)
    feeds = {"input": FEEDS["input"].copy()}
    with OrtRunner(path) as runner:
        runner.bind(feeds)
    assert not np.shares_memory(bound[0], feeds["input"])


def test_session_is_given_what_is_described(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    real = onnxruntime.InferenceSession

    def spy(model, options, providers, enable_fallback):
        given.append((options, providers))
        assert enable_fallback == 0
        return real(model, options, providers=providers, enable_fallback=enable_fallback)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    with OrtRunner(path, threads=2, spinning=False):
        pass
    [(options, providers)] = given
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert providers == [("CPUExecutionProvider", {})]


def test_provider_that_is_not_installed(path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(MissingError, match="CUDAExecutionProvider") as caught:
        OrtRunner(path, provider="CUDAExecutionProvider").__enter__()
    assert "pip install" in caught.value.hint


def test_provider_that_onnxruntime_silently_replaces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers, enable_fallback: real(model, providers=["CPUExecutionProvider"]),
    )
    runner = OrtRunner(path, provider="CUDAExecutionProvider")
    with pytest.raises(MissingError, match="fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        runner.__enter__()
    with pytest.raises(InputError, match="not active"):
        runner.infer(FEEDS)


def test_a_provider_that_fails_in_a_run_is_not_replaced(path: Path) -> None:
    with OrtRunner(path) as runner:
        assert runner._session._enable_fallback is False


def test_provider_that_is_none(path: Path) -> None:
    with pytest.raises(InputError, match="unknown provider 'cpu'"):
        OrtRunner(path, provider="cpu").__enter__()


@pytest.mark.parametrize("threads", [0, None, "2"])
def test_threads_that_are_none(path: Path, threads: object) -> None:
    with pytest.raises(InputError, match="threads"):
        OrtRunner(path, threads=threads).__enter__()


def broken(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.onnx"
    whole = small_model().SerializeToString()
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no model\n")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "operator":
        onnx.save(small_model(operator="NoSuchOperator"), path)
    elif kind == "type":
        # No MatMul of int8 in the operator set.
        onnx.save(small_model(dtype=TensorProto.INT8), path)
    elif kind == "external":
        onnx.save(
            small_model(),
            path,
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
            convert_attribute=True,
        )
        (tmp_path / "weights.bin").unlink()
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "operator", "type", "external"])
def test_broken_model_is_one_line(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        OrtRunner(path).__enter__()
    error = caught.value
    assert error.where == str(path)
    assert "\n" not in error.line
    assert len(error.line) < 500 + len(str(path))
    assert capfd.readouterr() == ("", "")
    if kind == "external":
        assert "external data" in error.what
    elif kind in ("empty", "text", "truncated"):
        assert "ONNX" in error.what
    elif kind == "operator":
        assert "lacks an operator" in error.what
        assert "truncated" not in error.line


def test_broken_bytes() -> None:
    with pytest.raises(ModelError, match="ONNX"):
        OrtRunner(b"garbage").__enter__()


def test_model_that_fails_while_it_runs_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shape = numpy_helper.from_array(np.array([7, 7], dtype=np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "shape"], ["logits"], "flat")],
        "wrong",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [shape],
    )
    path = tmp_path / "wrong.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with OrtRunner(path) as runner:
        for use in (runner.infer, runner.bind):
            with pytest.raises(ModelError, match=r"on input .*: Reshape node 'flat': ") as caught:
                use(FEEDS)
            line = caught.value.line
            assert "\n" not in line and "--input-shape" in line
            assert not any(words in line for words in ("Non-zero status", "Status Message", "ONNXRuntimeError", ".cc:"))
    assert capfd.readouterr().err == ""
