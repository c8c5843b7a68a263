"""bench: engines on a fake TensorRT and a board of files, and ONNX Runtime on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from support.fake_board import FakeBoard

Quick = dict[str, Any]


def inputs(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def fake_outputs(x: np.ndarray) -> np.ndarray:
    """What the fake engine computes."""
    total = x.reshape(len(x), -1).astype("float64").sum(1, keepdims=True)
    return (total * np.arange(1, 5)).astype(np.float32)


@pytest.fixture
def gate(npz: Callable[..., bytes], xavier: Any) -> Callable[..., dict[str, str]]:
    def make(y: np.ndarray, tolerance: str = "float32") -> dict[str, str]:
        return {"inputs": xavier.place(npz(x=inputs())), "expected": xavier.place(npz(y=y)), "tolerance": tolerance}

    return make


def test_engines_on_a_board(
    xavier: Any, board: FakeBoard, onnx_model: bytes, gate: Callable[..., Any], quick: Quick
) -> None:
    before = board.state()
    digest = xavier.place(onnx_model)
    good = gate(fake_outputs(inputs()))
    models = [
        {"label": "plain", "sha256": digest, "gate": good},
        {"label": "half", "sha256": digest, "precision": "fp16", "dla": 1, "gate": good},
    ]
    answer = xavier.ask("bench", {"models": models, "mode": "MAXN", "via": "trtexec", "cuda_graph": False, **quick})
    value = answer.value
    assert answer.code == 0
    plain, half = value["models"]
    assert plain["ok"] and half["ok"]
    assert plain["gate"]["ok"] and plain["gate"]["samples"] == 2
    assert 3 <= len(plain["samples_ns"]) == len(half["samples_ns"]) <= 5
    # Two clocks, of the same runs.
    assert len(plain["device_samples_ns"]) == len(plain["samples_ns"])
    assert plain["input_shape"] == [1, 3, 8, 8] and plain["batch"] == 1
    assert plain["runner"]["version"] == "8.5.2.2" and plain["runner"]["precision"] == "fp32"
    assert half["runner"]["precision"] == "fp16" and half["runner"]["typing"] == "weak"
    assert half["engine"]["dla"] == {
        "core": 1, "network_layers": 4, "can_run_on_dla": 3, "dla_subgraphs": 1, "gpu_layers": 1
    }  # fmt: skip
    assert plain["engine"]["layers"]["convolutions"] == 1
    assert plain["engine"]["timing_cache"] == "begun" and half["engine"]["timing_cache"] == "used"
    assert plain["trtexec"]["compute_ns"] == [2_000_000] * 3 and plain["trtexec"]["enqueue_ns"] == [250_000] * 3
    assert "--loadEngine=model0-0.engine" in plain["trtexec"]["arguments"]
    assert "--useDLACore=1" in half["trtexec"]["arguments"]
    # Held at the mode's highest while it measured, and as before now.
    assert value["system"]["board"]["clocks"]["gpu"]["min_hz"] == 1377000000
    assert value["conditions"]["power_mode"] == {"id": 0, "name": "MAXN"} and value["conditions"]["clocks"] == "held"
    assert value["board"]["power_mode"] == {"id": 7, "name": "MODE_15W_DESKTOP"}
    assert value["switched"] == [
        "power mode 0 (MAXN), before: 7 (MODE_15W_DESKTOP)",
        "clocks held at the highest of the mode",
    ]
    assert value["restored"] == ["clocks as they were", "power mode 7 (MODE_15W_DESKTOP)", "clocks as they were"]
    assert board.state() == before
    assert xavier.left() == []
    assert list((xavier.cache / "timing").iterdir()) == [xavier.cache / "timing" / "8.5.2.2-7.2-mode0.cache"]


def test_a_wrong_engine_is_not_measured(xavier: Any, onnx_model: bytes, gate: Callable[..., Any], quick: Quick) -> None:
    digest = xavier.place(onnx_model)
    right = fake_outputs(inputs())
    models = [
        {"label": "wrong", "sha256": digest, "gate": gate(right * np.float32(1.1))},
        {"label": "right", "sha256": digest, "gate": gate(right)},
    ]
    answer = xavier.ask("bench", {"models": models, **quick})
    wrong, good = answer.value["models"]
    assert answer.code == 1
    assert wrong["error"]["kind"] == "CheckFailed" and "samples_ns" not in wrong
    assert wrong["gate"]["ok"] is False
    assert good["ok"] and good["samples_ns"]
    assert answer.value["conditions"]["interleaved_with"] == ["right"]


def test_nan_does_not_pass(xavier: Any, onnx_model: bytes, gate: Callable[..., Any], quick: Quick) -> None:
    y = fake_outputs(inputs())
    y[0, 0] = np.nan
    models = [{"label": "m", "sha256": xavier.place(onnx_model), "gate": gate(y)}]
    answer = xavier.ask("bench", {"models": models, **quick})
    assert answer.code == 1 and "NaN" in answer.value["models"][0]["error"]["what"]


def test_build_only(xavier: Any, onnx_model: bytes, gate: Callable[..., Any]) -> None:
    digest = xavier.place(onnx_model)
    models = [{"label": "m", "sha256": digest, "name": "it's $(touch x).onnx", "gate": gate(fake_outputs(inputs()))}]
    value = xavier.ask("bench", {"models": models, "build_only": True, "builds": 2}).value
    assert [model["build"] for model in value["models"]] == [0, 1]
    assert all(model["gate"]["ok"] and "samples_ns" not in model for model in value["models"])
    name, beside = value["models"][1]["engine"]["files"]
    process = xavier.start("get", {"job": value["job"], "name": name})
    output, _ = process.communicate(timeout=60)
    header, line, rest = output.split(b"\n", 2)
    fetched = json.loads(line)
    engine = rest[: fetched["size_bytes"]]
    assert json.loads(header)["event"] == "hello"
    assert json.loads(rest[fetched["size_bytes"] :])["event"] == "result"
    assert hashlib.sha256(engine).hexdigest() == fetched["sha256"] == value["models"][1]["engine"]["sha256"]
    sidecar = json.loads((xavier.cache / "jobs" / value["job"] / beside).read_text())
    assert sidecar["engine_sha256"] == fetched["sha256"] and sidecar["onnx_sha256"] == digest
    assert sidecar["command"].endswith("""'it'"'"'s $(touch x).onnx' --precision fp32 --build-only""")
    assert xavier.ask("clean", {"job": value["job"]}).value["removed_bytes"] > 0
    assert xavier.left() == []


def test_a_failed_gate_leaves_no_engine(xavier: Any, onnx_model: bytes, gate: Callable[..., Any]) -> None:
    models = [{"label": "m", "sha256": xavier.place(onnx_model), "gate": gate(np.ones((2, 4), np.float32))}]
    answer = xavier.ask("bench", {"models": models, "build_only": True})
    assert answer.code == 1
    assert not [name for name in xavier.left() if "engine" in name]


def test_a_builder_that_fails_is_its_models_own(xavier: Any, onnx_model: bytes, quick: Quick) -> None:
    unknown = onnx_model.replace(b"Relu", b"Unknown"[:4])
    models = [
        {"label": "good", "sha256": xavier.place(onnx_model)},
        {"label": "int8", "sha256": xavier.place(onnx_model), "precision": "int8"},
        {"label": "torn", "sha256": xavier.place(unknown[:40])},
    ]
    answer = xavier.ask("bench", {"models": models, **quick})
    good, int8, torn = answer.value["models"]
    assert good["ok"]
    assert int8["error"]["kind"] == "InputError" and answer.code == 2
    assert torn["error"]["kind"] == "RunError" and "builder failed" in torn["error"]["what"]


@pytest.mark.parametrize(
    ("code", "what"),
    [("time.sleep(600)", "took longer than 0.4 s and was ended"), ("os.abort()", "builder crashed (signal 6)")],
)
def test_a_builder_that_hangs_or_crashes(
    xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick, code: str, what: str
) -> None:
    before = board.state()
    path = board.root / "python" / "sitecustomize.py"
    ours = "import os, time\nif '_build' in open('/proc/self/cmdline').read().split(chr(0)): "
    path.write_text(path.read_text() + ours + code + "\n")
    models = [{"label": "m", "sha256": xavier.place(onnx_model)}]
    answer = xavier.ask("bench", {"models": models, "build_timeout_s": 0.4, **quick})
    assert answer.code == 4 and what in answer.value["models"][0]["error"]["what"]
    assert board.state() == before and xavier.left() == []


def test_trtexec_that_fails_is_told(xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick) -> None:
    board.program("usr/src/tensorrt/bin/trtexec", "\necho '[E] Error[1]: cuda failure'; echo '&&&& FAILED'; exit 1\n")
    request = {"models": [{"label": "m", "sha256": xavier.place(onnx_model)}], "via": "trtexec", **quick}
    answer = xavier.ask("bench", request)
    (model,) = answer.value["models"]
    assert answer.code == 4 and model["error"]["what"] == "trtexec failed: [E] Error[1]: cuda failure"
    assert "&&&& FAILED" in answer.logs()
    (board.root / "usr/src/tensorrt/bin/trtexec").unlink()
    assert xavier.ask("bench", request).error["what"] == "no trtexec"


def test_free_dimensions(xavier: Any, onnx_model: bytes, npz: Callable[..., bytes], quick: Quick) -> None:
    model = onnx.load_model_from_string(onnx_model)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()
    y = fake_outputs(inputs(4))
    gate = {"inputs": xavier.place(npz(x=inputs(4))), "expected": xavier.place(npz(y=y)), "tolerance": "float32"}
    entry = {"label": "m", "sha256": xavier.place(model.SerializeToString()), "gate": gate, "batch": 2}
    profiles = {"x": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}
    (found,) = xavier.ask("bench", {"models": [{**entry, "profiles": profiles}], **quick}).value["models"]
    assert found["gate"]["samples"] == 4 and found["input_shape"] == [2, 3, 8, 8] and found["batch"] == 2
    answer = xavier.ask("bench", {"models": [{**entry, "profiles": profiles, "batch": 3}], **quick})
    assert "4 inputs for batches of 3" in answer.value["models"][0]["error"]["what"]


def test_an_engine_that_the_runtime_refuses(
    archive: Any, board: FakeBoard, xavier: Any, onnx_model: bytes, quick: Quick
) -> None:
    (board.root / "python" / "tensorrt.py").write_text(
        (board.root / "python" / "tensorrt.py").read_text().replace("loads=None", "loads='built for compute 8.7'")
    )
    answer = xavier.ask("bench", {"models": [{"label": "m", "sha256": xavier.place(onnx_model)}], **quick})
    assert answer.value["models"][0]["error"]["kind"] == "ModelError"
    assert "built for compute 8.7" in answer.value["models"][0]["error"]["what"]


def test_power(xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick) -> None:
    request = {"models": [{"label": "m", "sha256": xavier.place(onnx_model)}], "power": {"seconds": 1.0}, **quick}
    value = xavier.ask("bench", request).value
    power = value["models"][0]["power"]
    assert power["rails_mw"]["GPU"] == pytest.approx(19.088 * 24)
    total = 19.088 * 24 + 19.080 * 32 + 19.064 * 154 + 19.056 * 16 + 19.048 * 173
    assert power["module_mw"] == pytest.approx(total) == power["idle_module_mw"]
    assert power["samples"] >= 3 and power["seconds"] >= 1.0
    assert power["energy_mj_per_inference"] == pytest.approx(total * power["seconds"] / power["inferences"])
    assert power["energy_above_idle_mj_per_inference"] == pytest.approx(0)
    assert value["system_after"]["samples"][0]["temperatures_c"]["GPU"] == 30.5
    assert value["system_after"]["throttled"] is None


def test_a_clock_that_fell_is_told(xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick) -> None:
    # jetson_clocks holds it, and something (heat) brings it down all the same.
    path = board.root / "usr/bin/jetson_clocks"
    path.write_text(
        path.read_text().replace("exit 0", 'echo 318750000 > "$root/sys/class/devfreq/17000000.gv11b/cur_freq"')
    )
    request = {
        "models": [{"label": "m", "sha256": xavier.place(onnx_model)}],
        **quick,
        "min_seconds": 0.5,
        "max_samples": 1000,
    }
    answer = xavier.ask("bench", request)
    assert answer.value["system_after"]["throttled"] == "the GPU fell to 319 of 676 MHz, in 100% of the samples"
    assert any(text.startswith("throttled: ") for text in answer.logs())


def test_what_the_board_lacks(xavier: Any, onnx_model: bytes, quick: Quick) -> None:
    models = [{"label": "m", "sha256": xavier.place(onnx_model), "precision": "fp16", "dla": 2}]
    assert xavier.ask("bench", {"models": models, **quick}).error["what"] == "no DLA core 2: this board has 2"
    gone = xavier.ask("bench", {"models": [{"label": "m", "sha256": "0" * 64}], **quick})
    assert gone.code == 2 and "was put here" in gone.error["what"]


def test_without_tensorrt_nothing_else_is_run(agent: Any, onnx_model: bytes, quick: Quick) -> None:
    answer = agent.ask("bench", {"models": [{"label": "m", "sha256": agent.place(onnx_model)}], **quick})
    assert answer.code == 3 and answer.error["kind"] == "MissingError"
    assert "--runner ort-cpu" in answer.error["hint"]
    assert agent.left() == []


def test_onnx_runtime_anywhere(agent: Any, onnx_model: bytes, npz: Callable[..., bytes], quick: Quick) -> None:
    x = inputs()
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    y = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    gate = {"inputs": agent.place(npz(x=x)), "expected": agent.place(npz(y=y)), "tolerance": "float32"}
    request = {
        "models": [{"label": "m", "sha256": agent.place(onnx_model), "gate": gate}],
        "runner": "ort-cpu",
        **quick,
    }
    answer = agent.ask("bench", request)
    (model,) = answer.value["models"]
    assert answer.code == 0 and model["runner"]["provider"] == "CPUExecutionProvider"
    assert model["gate"]["ok"] and len(model["samples_ns"]) >= 3 and model["engine"] is None
    assert answer.value["switched"] == [] == answer.value["restored"]
    no_power = agent.ask("bench", {**request, "power": {"seconds": 10}})
    assert no_power.code == 3 and "INA3221" in no_power.error["what"]
    no_mode = agent.ask("bench", {**request, "mode": "MAXN"})
    assert no_mode.code == 3 and "no nvpmodel" in no_mode.error["what"]


def test_a_request_that_is_none(agent: Any) -> None:
    answer = agent.ask("bench", {"models": []})
    assert answer.code == 2 and answer.error["where"] == "models"
    assert not agent.cache.exists()
