"""Engines are built completely or not at all, with a sidecar, whatever happens to the builder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from irepdeploy import files
from irepdeploy.board.sidecar import check_sidecar, read_plan_header, read_sidecar
from irepdeploy.errors import InputError, MissingError, ModelError, OutputError, RunError
from irepdeploy.export.engine.engine import build_engine
from irepdeploy.export.writer.onnx_from_torch import serialized
from irepdeploy.files import sha256
from support.graph_writer import onnx_model

RTX = "tensorrt_rtx"


@pytest.fixture(scope="module")
def content(vgg6: onnx.ModelProto) -> bytes:
    return serialized(vgg6)


def convolutions(*kernels: int, batch: int | str = 1) -> bytes:
    """Convolutions side by side, summed: branches that a builder could merge and does not."""
    rng = np.random.default_rng(0)
    weights, nodes = {}, []
    for index, kernel in enumerate(kernels):
        weights[f"w{index}"] = rng.standard_normal((32, 32, kernel, kernel)).astype(np.float32)
        pads = [kernel // 2] * 4
        nodes.append(onnx.helper.make_node("Conv", ["x", f"w{index}"], [f"c{index}"], f"branch{index}", pads=pads))
    nodes.append(onnx.helper.make_node("Sum", [node.output[0] for node in nodes], ["y"], "sum"))
    shape = (batch, 32, 16, 16)
    return onnx_model(nodes, {"x": shape}, {"y": shape}, weights).SerializeToString()


def worker(code: str) -> list[str]:
    return [sys.executable, "-c", "import sys, pathlib; folder = pathlib.Path(sys.argv[1])\n" + code]


# The real builder.


@pytest.mark.trt
def test_an_engine_with_its_sidecar(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Unusual paths and modules named like dependencies must not disturb it.
    folder = tmp_path / "a 'b' ü"
    folder.mkdir()
    for name in ("onnx", "json", "tensorrt_bindings"):
        (folder / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(folder)
    Path("model.onnx").write_bytes(content)
    steps: list[str] = []
    report = build_engine("model.onnx", "out/model.engine", flavour=RTX, report=steps.append)
    assert sorted(path.name for path in Path("out").iterdir()) == ["model.engine", "model.engine.json"]
    assert (report.flavour, report.precision, report.typing, report.tf32) == (RTX, "fp32", "strong", False)
    assert report.run == "not run"
    assert report.layers["convolutions"] == 6 and report.layers["convolution_inputs"] == {"Float": 6}
    assert report.layers["weights_bytes"] > 0 and report.layers["activation_bytes"] > 0
    header = read_plan_header(Path("out/model.engine").read_bytes())
    assert header is not None and (header.flavour, header.version) == (RTX, report.version)
    sidecar = check_sidecar("out/model.engine", version=report.version, flavour=RTX, compute_capability="8.6")
    assert sidecar is not None
    assert sidecar.onnx_sha256 == sha256(content) and sidecar.engine_sha256 == sha256("out/model.engine")
    assert sidecar.inputs == [{"name": "input", "shape": [1, 1, 16, 16], "dtype": "float32"}]
    assert sidecar.outputs == [{"name": "logits", "shape": [1, 10], "dtype": "float32"}]
    assert sidecar.command == "irepdeploy export model.onnx --target rtx --precision fp32"
    assert steps[0].startswith("loaded TensorRT-RTX") and "parse" in steps and steps[-1] == "build 6/6"
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.trt
def test_a_sidecar_never_stands_beside_another_engine(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(content, tmp_path / "m.engine", flavour=RTX)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(source: Path, target: Path) -> None:
        assert not (tmp_path / "m.engine.json").exists()
        raise RunError("the disk is full")

    monkeypatch.setattr(files, "move_file", full)
    with pytest.raises(RunError, match="disk is full"):
        build_engine(content, tmp_path / "m.engine", flavour=RTX)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.trt
def test_int8_is_int8(content: bytes, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.batches = [{"input": rng.standard_normal((1, 1, 16, 16)).astype(np.float32)} for _ in range(2)]

        def get_next(self) -> Any:
            return self.batches.pop() if self.batches else None

    # TensorRT's parser refuses the int32 biases that are the default.
    options = {"QuantizeBias": False, "ActivationSymmetric": True, "WeightSymmetric": True}
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    (tmp_path / "float.onnx").write_bytes(content)
    for bias in (False, True):
        options["QuantizeBias"] = bias
        quantized = tmp_path / f"bias{bias}.onnx"
        quantize_static(
            tmp_path / "float.onnx", quantized, Reader(), per_channel=True, extra_options=dict(options), **kinds
        )
    report = build_engine(tmp_path / "biasFalse.onnx", tmp_path / "m.engine", flavour=RTX, precision="int8")
    assert report.layers["convolution_inputs"] == {"Int8": 6}
    with pytest.raises(ModelError, match=r"cannot parse this model: .*Int32"):
        build_engine(tmp_path / "biasTrue.onnx", tmp_path / "n.engine", flavour=RTX, precision="int8")
    assert not (tmp_path / "n.engine").exists()


@pytest.mark.trt
@pytest.mark.parametrize("kernels", [(3, 3), (3, 1), (3, 1, 1), (5, 3, 3, 1)])
def test_branches_are_not_merged_by_it(kernels: tuple[int, ...], tmp_path: Path) -> None:
    report = build_engine(convolutions(*kernels), tmp_path / "m.engine", flavour=RTX)
    assert report.layers["convolutions"] == len(kernels)


@pytest.mark.trt
def test_dynamic_batch(tmp_path: Path) -> None:
    content = convolutions(3, batch="n")
    shapes = [[batch, 32, 16, 16] for batch in (1, 4, 8)]
    build_engine(content, tmp_path / "m.engine", flavour=RTX, profiles={"x": (shapes[0], shapes[1], shapes[2])})
    sidecar = read_sidecar(tmp_path / "m.engine")
    assert sidecar is not None and sidecar.inputs[0]["shape"] == [-1, 32, 16, 16]
    assert sidecar.settings["profiles"] == {"x": shapes}
    with pytest.raises(InputError, match="needs a profile"):
        build_engine(content, tmp_path / "n.engine", flavour=RTX)


@pytest.mark.trt
def test_two_builds_are_the_same(content: bytes, tmp_path: Path) -> None:
    # Nothing is timed here: on a GPU, timing may choose differently.
    reports = [build_engine(content, tmp_path / f"{name}.engine", flavour=RTX) for name in "ab"]
    assert reports[0].sha256 == reports[1].sha256


@pytest.mark.trt
@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"precision": "fp16"}, InputError, "expected an fp16 model .*, got fp32: TensorRT-RTX .* from the model"),
        ({"dla_core": 0}, MissingError, "no DLA core 0"),
        ({"timing_cache": "cache"}, InputError, "does not use a timing cache"),
        ({"profiles": {"input": [[1, 1, 16, 16]] * 3}}, InputError, "its shape is fixed"),
    ],
)
def test_an_option_it_cannot_honour(
    content: bytes, tmp_path: Path, options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    options = {**options, **({"timing_cache": tmp_path / "cache"} if "timing_cache" in options else {})}
    with pytest.raises(error, match=reason):
        build_engine(content, tmp_path / "m.engine", flavour=RTX, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.trt
def test_an_operator_it_does_not_know(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(convolutions(3))
    model.graph.node[1].op_type = "NoSuchOperator"
    steps: list[str] = []
    with pytest.raises(ModelError, match=r"cannot parse this model: NoSuchOperator 'sum'"):
        build_engine(model.SerializeToString(), tmp_path / "m.engine", flavour=RTX, report=steps.append)
    assert any(step.startswith("TensorRT: ") for step in steps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.trt
def test_external_data(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(convolutions(3))
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert build_engine(path, tmp_path / "m.engine", flavour=RTX).layers["convolutions"] == 1
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match="external data cannot be read"):
        build_engine(path, tmp_path / "n.engine", flavour=RTX)


@pytest.mark.trt
def test_killed_at_any_time_nothing_half_written_is_seen(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    code = (
        "from irepdeploy.export.engine.engine import build_engine\n"
        "def report(step): print(step, flush=True)\n"
        "while True: build_engine('model.onnx', 'out/m.engine', flavour='tensorrt_rtx', report=report)\n"
    )
    for wanted in ("parse", "build 6/6"):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(wanted):
                break
        process.kill()
        process.communicate()
        if (tmp_path / "out/m.engine").exists() and read_sidecar(tmp_path / "out/m.engine") is not None:
            check_sidecar(tmp_path / "out/m.engine", version="1.7.1.116", flavour=RTX)
    build_engine(content, tmp_path / "out/m.engine", flavour=RTX)
    # The remains are removed.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.engine", "m.engine.json"]


# Without a builder.


def test_no_tensorrt(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IREPDEPLOY_TENSORRT_RTX", str(tmp_path / "nowhere"))
    with pytest.raises(MissingError, match="make trt"):
        build_engine(content, tmp_path / "m.engine", flavour=RTX)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", r"builder crashed \(signal 6\)"),
        ("import os; os.kill(os.getpid(), 11)", r"builder crashed \(signal 11\)"),
        ("raise ValueError('no such thing')", "builder failed .*no such thing"),
        ("pass", r"builder failed \(exit code 0\)"),
        ("(folder / 'result.json').write_text('{\"torn')", "builder failed"),
    ],
)
def test_a_builder_that_dies(content: bytes, tmp_path: Path, code: str, reason: str) -> None:
    (tmp_path / "m.engine").write_bytes(b"the old one")
    with pytest.raises(RunError, match=reason):
        build_engine(content, tmp_path / "m.engine", flavour=RTX, worker=worker(code))
    assert (tmp_path / "m.engine").read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["m.engine"]


def test_the_last_words_of_a_builder_that_dies(content: bytes, tmp_path: Path) -> None:
    log = json.dumps(["ERROR", "tactic\nfailed"]) + "\n" + '["ERR'
    code = f"import os; (folder / 'log.jsonl').write_text({log!r}); os.abort()"
    steps: list[str] = []
    with pytest.raises(RunError, match=r"crashed .*its last message: tactic failed"):
        build_engine(content, tmp_path / "m.engine", flavour=RTX, worker=worker(code), report=steps.append)
    assert steps == ["TensorRT: tactic failed"]


def test_a_builder_ends_with_its_command() -> None:
    child = (
        "import signal\n"
        "from irepdeploy.board.lifetime import end_with_parent\n"
        "end_with_parent()\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    # When it exits, the pipe inherited by the child closes.
    process.communicate(timeout=600)


def test_a_builder_that_hangs(content: bytes, tmp_path: Path) -> None:
    hang = worker("import signal; signal.pause()")
    with pytest.raises(RunError, match=r"longer than 0\.2 s and was ended"):
        build_engine(content, tmp_path / "m.engine", flavour=RTX, worker=hang, timeout_s=0.2)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_ends_the_builder(content: bytes, tmp_path: Path) -> None:
    def interrupt(step: str) -> None:
        pids.append(int(step))
        raise KeyboardInterrupt

    pids: list[int] = []
    code = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    with pytest.raises(KeyboardInterrupt):
        build_engine(content, tmp_path / "m.engine", flavour=RTX, worker=worker(code), report=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"flavour": "trt"}, "no TensorRT flavour 'trt'"),
        ({"precision": "bf16"}, "unknown precision 'bf16' .*fp32, fp16, int8"),
        ({"workspace_bytes": 0}, "expected a positive workspace size, got 0 bytes"),
    ],
)
def test_a_wrong_option(content: bytes, tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build_engine(content, tmp_path / "m.engine", **{"flavour": RTX, **options})


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ONNX file"):
        build_engine(tmp_path / "none.onnx", tmp_path / "m.engine", flavour=RTX)
    with pytest.raises(ModelError, match="not an ONNX model"):
        build_engine(b"garbage", tmp_path / "m.engine", flavour=RTX)


def test_a_folder_that_cannot_be_written(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        build_engine(content, tmp_path / "file/m.engine", flavour=RTX)


def test_the_whole_way_with_another_tensorrt(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "import os\n"
        "from support.fake_tensorrt import FakeTensorrt\n"
        "globals().update(vars(FakeTensorrt('8.5.2.2')))\n"
        "os.write(1, b'it prints on its own\\n')\n"
    )
    steps: list[str] = []
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorrt.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    cache, out = tmp_path / "timing.cache", tmp_path / "out" / "m.engine"
    for note, written in (("begun", b"timed"), ("used", b"timedtimed")):
        report = build_engine(
            content, out, flavour="tensorrt", precision="fp16", timing_cache=cache, report=steps.append
        )
        assert (report.version, report.typing, report.assembled) == ("8.5.2.2", "weak", False)
        assert report.timing_cache == note and cache.read_bytes() == written
    assert steps == ["loaded TensorRT 8.5.2.2", "parse", "build"] * 2
    assert check_sidecar(out, version="8.5.2.2", flavour="tensorrt")
    assert read_sidecar(out).command.endswith("--target trt --precision fp16")  # type: ignore[union-attr]


def test_what_was_logged_before_a_crash(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "import os\n"
        "from support.fake_tensorrt import FakeTensorrt, Severity\n"
        "globals().update(vars(FakeTensorrt('8.6.1.6')))\n"
        "def Builder(logger):\n"
        "    logger.log(Severity.ERROR, 'out of tactics')\n"
        "    os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RunError, match=r"crashed \(signal 6\); its last message: out of tactics"):
        build_engine(content, tmp_path / "m.engine", flavour="tensorrt")
