"""bench: engines on a fake TensorRT and a board made of files, and ONNX Runtime on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from irepdeploy.errors import InputError, MissingError
from support.fake_board import FakeBoard

Quick = dict[str, Any]


def inputs(rows: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def fake_outputs(x: np.ndarray) -> np.ndarray:
    """Return the outputs of the fake engine."""
    total = x.reshape(len(x), -1).astype("float64").sum(1, keepdims=True)
    return (total * np.arange(1, 5)).astype(np.float32)


@pytest.fixture
def gate(npz: Callable[..., bytes], xavier: Any) -> Callable[..., dict[str, str]]:
    def make(y: np.ndarray, x: np.ndarray | None = None, batch: int = 1) -> dict[str, str]:
        given, expected = (array.reshape(-1, batch, *array.shape[1:]) for array in (inputs() if x is None else x, y))
        return {"inputs": xavier.place(npz(x=given)), "expected": xavier.place(npz(y=expected)), "tolerance": "float32"}

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
    answer = xavier.ask("bench", {"models": models, "mode": "MAXN", "via": "trtexec", **quick})
    value = answer.value
    assert answer.code == 0
    plain, half = value["models"]
    assert plain["ok"] and half["ok"]
    assert plain["gate"]["ok"] and plain["gate"]["samples"] == 2
    assert 3 <= len(plain["samples_ns"]) == len(half["samples_ns"]) <= 5
    # Times of the same runs by two clocks.
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
    assert "--loadEngine=model0.engine" in plain["trtexec"]["arguments"]
    assert "--useDLACore=1" in half["trtexec"]["arguments"]
    # Locked at the mode's maximum during the measurement, and restored now.
    assert value["system"]["board"]["clocks"]["gpu"]["min_hz"] == 1377000000
    assert value["conditions"]["power_mode"] == {"id": 0, "name": "MAXN"} and value["conditions"]["clocks"] == "held"
    assert value["board"]["power_mode"] == {"id": 7, "name": "MODE_15W_DESKTOP"}
    assert value["switched"] == [
        "power mode 0 (MAXN), before: 7 (MODE_15W_DESKTOP)",
        "clocks locked at the maximum of the mode",
    ]
    assert value["restored"] == ["clocks as they were", "power mode 7 (MODE_15W_DESKTOP)", "clocks as they were"]
    assert value["system_after"]["throttled"] is None
    assert board.state() == before
    assert xavier.left() == []
    assert list((xavier.cache / "timing").iterdir()) == [xavier.cache / "timing" / "8.5.2.2-7.2-mode0.cache"]


def test_a_model_that_fails_does_not_stop_the_others(
    xavier: Any, board: FakeBoard, onnx_model: bytes, gate: Callable[..., Any], quick: Quick
) -> None:
    path = board.root / "python" / "sitecustomize.py"
    aborts = "import os\nif 'build-model5' in open('/proc/self/cmdline').read(): os.abort()\n"
    path.write_text(path.read_text() + aborts)
    digest, right = xavier.place(onnx_model), fake_outputs(inputs())
    nan = right.copy()
    nan[0, 0] = np.nan
    models = [
        {"label": "wrong", "sha256": digest, "gate": gate(right * np.float32(1.1))},
        {"label": "right", "sha256": digest, "gate": gate(right)},
        {"label": "nan", "sha256": digest, "gate": gate(nan)},
        {"label": "int8", "sha256": digest, "precision": "int8"},
        {"label": "torn", "sha256": xavier.place(onnx_model[:40])},
        {"label": "crash", "sha256": digest},
    ]
    value = xavier.bench(models, **quick).value
    by_label = {model["label"]: model for model in value["models"]}
    assert [label for label, model in by_label.items() if model["ok"]] == ["right"]
    kinds = {label: model["error"]["kind"] for label, model in by_label.items() if not model["ok"]}
    assert kinds == {
        "wrong": "CheckFailed", "nan": "CheckFailed", "int8": "InputError", "torn": "RunError", "crash": "RunError"
    }  # fmt: skip
    assert by_label["wrong"]["gate"]["ok"] is False and "samples_ns" not in by_label["wrong"]
    for label, text in (("nan", "NaN"), ("torn", "builder failed"), ("crash", "builder crashed (signal 6)")):
        assert text in by_label[label]["error"]["what"]
    assert by_label["right"]["samples_ns"] and value["conditions"]["interleaved_with"] == ["right"]


def test_a_failed_gate_leaves_no_engine(xavier: Any, onnx_model: bytes, gate: Callable[..., Any]) -> None:
    bad = gate(np.ones((2, 4), np.float32))
    models = [{"label": "m", "sha256": xavier.place(onnx_model), "gate": bad}]
    assert not xavier.bench(models, build_only=True).value["models"][0]["ok"]
    assert not [name for name in xavier.left() if "engine" in name]


def test_a_builder_that_hangs_is_ended(xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick) -> None:
    before = board.state()
    path = board.root / "python" / "sitecustomize.py"
    hangs = "import time\nif '_build' in open('/proc/self/cmdline').read().split(chr(0)): time.sleep(600)\n"
    path.write_text(path.read_text() + hangs)
    answer = xavier.bench([{"label": "m", "sha256": xavier.place(onnx_model)}], build_timeout_s=0.4, **quick)
    assert "took longer than 0.4 s and was ended" in answer.value["models"][0]["error"]["what"]
    assert board.state() == before and xavier.left() == []


def test_without_a_password_for_sudo_clocks_stay_and_trtexec_that_fails_is_logged(
    xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick
) -> None:
    board.program("usr/bin/sudo", "\necho 'sudo: a password is required'; exit 1\n")
    board.program("usr/src/tensorrt/bin/trtexec", "\necho '[E] Error[1]: cuda failure'; echo '&&&& FAILED'; exit 1\n")
    models = [{"label": "m", "sha256": xavier.place(onnx_model)}]
    answer = xavier.bench(models, via="trtexec", **quick)
    (model,) = answer.value["models"]
    assert model["error"]["what"] == "trtexec failed: [E] Error[1]: cuda failure"
    assert "&&&& FAILED" in answer.logs()
    assert answer.value["conditions"]["clocks"] == "as they were"
    assert any("left to the governor" in text for text in answer.logs())
    assert board.calls("jetson_clocks") == []
    with pytest.raises(MissingError, match="sudo asks for a password") as caught:
        xavier.bench(models, mode="MAXN")
    assert "visudo" in str(caught.value.hint)
    (board.root / "usr/src/tensorrt/bin/trtexec").unlink()
    with pytest.raises(MissingError, match="trtexec is not installed"):
        xavier.bench(models, via="trtexec")


def test_dynamic_batch(xavier: Any, onnx_model: bytes, gate: Callable[..., Any], quick: Quick) -> None:
    model = onnx.load_model_from_string(onnx_model)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()
    shared = {
        "sha256": xavier.place(model.SerializeToString()),
        "gate": gate(fake_outputs(inputs(4)), inputs(4), 2),
        "profiles": {"x": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]},
    }
    (two,) = xavier.bench([{**shared, "label": "two", "batch": 2}], **quick).value["models"]
    assert two["gate"]["samples"] == 4 and two["input_shape"] == [2, 3, 8, 8] and two["batch"] == 2


def test_a_clock_that_dropped_is_reported(xavier: Any, board: FakeBoard, onnx_model: bytes, quick: Quick) -> None:
    # jetson_clocks locks the clock, but something (heat) lowers it anyway.
    path = board.root / "usr/bin/jetson_clocks"
    lowers = 'echo 318750000 > "$root/sys/class/devfreq/17000000.gv11b/cur_freq"'
    path.write_text(path.read_text().replace("exit 0", lowers))
    limits = {**quick, "min_seconds": 0.3, "max_samples": 100_000}
    answer = xavier.bench([{"label": "m", "sha256": xavier.place(onnx_model)}], **limits)
    assert answer.value["system_after"]["throttled"] == "the GPU dropped to 319 of 676 MHz in 100% of the samples"
    assert any(text.startswith("throttled: ") for text in answer.logs())


def test_missing_parts_are_named_before_anything_is_built(xavier: Any, agent: Any, onnx_model: bytes) -> None:
    models = [{"label": "m", "sha256": xavier.place(onnx_model), "precision": "fp16", "dla": 2}]
    with pytest.raises(MissingError, match="no DLA core 2: this board has 2"):
        xavier.bench(models)
    with pytest.raises(InputError, match="no file 000000000000 in the cache"):
        xavier.bench([{"label": "m", "sha256": "0" * 64}])
    here = [{"label": "m", "sha256": agent.place(onnx_model)}]
    for request, text in (
        ({}, "TensorRT is not installed"),
        ({"runner": "ort-cpu", "power": {"seconds": 10}}, "INA3221"),
        ({"runner": "ort-cpu", "mode": "MAXN"}, "no nvpmodel"),
    ):
        with pytest.raises(MissingError, match=text) as caught:
            agent.bench(here, **request)
    with pytest.raises(MissingError) as caught:
        agent.bench(here)
    assert "--runner ort-cpu" in str(caught.value.hint)
    assert agent.left() == []


def test_onnx_runtime_anywhere(agent: Any, onnx_model: bytes, npz: Callable[..., bytes], quick: Quick) -> None:
    x = inputs()
    session = onnxruntime.InferenceSession(onnx_model, providers=["CPUExecutionProvider"])
    y = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    runs = {"inputs": npz(x=x[:, None]), "expected": npz(y=y[:, None])}
    gate = {**{name: agent.place(content) for name, content in runs.items()}, "tolerance": "float32"}
    models = [{"label": "m", "sha256": agent.place(onnx_model), "gate": gate}]
    answer = agent.ask("bench", {"models": models, "runner": "ort-cpu", **quick})
    (model,) = answer.value["models"]
    assert answer.code == 0 and model["runner"]["provider"] == "CPUExecutionProvider"
    assert model["gate"]["ok"] and len(model["samples_ns"]) >= 3 and model["engine"] is None
    assert answer.value["switched"] == [] == answer.value["restored"]


def test_an_invalid_request(agent: Any) -> None:
    answer = agent.ask("bench", {"models": []})
    assert answer.code == 2 and answer.error["where"] == "models"
    assert not agent.cache.exists()
