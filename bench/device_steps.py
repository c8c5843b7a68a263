"""The steps of `irepdeploy.bench.device_check` that are not suites: ``python -m irepdeploy.bench.device_steps NAME``.

Each step prints its finding as the last line of its output (`irepdeploy.board.steps`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from irepdeploy.board.comparison import TOLERANCES, compare_outputs
from irepdeploy.board.cuda_check import check_bindings, check_graphs
from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import DeviceTimed, Runner, TensorSpec
from irepdeploy.board.steps import answer
from irepdeploy.board.system import machine_state
from irepdeploy.board.trt_library import load_tensorrt
from irepdeploy.board.trt_runner import TrtRunner
from irepdeploy.errors import CheckFailed, InputError, IrepdeployError, MissingError, one_line
from irepdeploy.export.engine.engine import build_engine
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.fold import folded
from irepdeploy.runtime.torch_compile_runner import TorchCompileRunner
from irepdeploy.runtime.torch_graph_runner import TorchGraphRunner
from irepdeploy.runtime.torch_runner import TorchRunner

from .device_latency import measure_latencies
from .onnx_model import onnx_of

__all__ = ["STEPS", "main"]

_SHAPE = (1, 16, 16)
_REPLAYS = 200
# Engines built by this process.
_BUILT: set[Path] = set()
_ALLOWED_CLOCK = 0.05
# The first batch size is judged. The device time of a single call starts before the host has launched it. These few
# microseconds vanish in many replays but show at batch 1.
_CLOCK_BATCHES = (64, 1)
# TF32 has 10 bits on Ampere and Hopper: its error is about 1e-3, that of float32 about 1e-6.
_TF32_ERROR, _FP32_ERROR = 1e-4, 1e-5

Found = tuple[str, Mapping[str, Any]]


class Request(NamedTuple):
    """Arguments of a step: the device, and the folder for its files."""

    device: str
    out: Path

    def need_gpu(self) -> None:
        """Raise MissingError unless the device is a GPU that torch can use."""
        if self.device != "cuda":
            raise MissingError("needs a GPU")
        if not torch.cuda.is_available():
            raise MissingError("torch finds no CUDA device here")


def _network() -> nn.Module:
    torch.manual_seed(0)
    net = build_plain("vgg6", num_classes=10, input_shape=_SHAPE)
    randomize_statistics(net, 0).eval()
    return folded(net)


def _feeds(batch: int = 4) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(0).standard_normal((batch, *_SHAPE)).astype("float32")}


def _expected(net: nn.Module, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        images = torch.from_numpy(feeds["input"]).double()
        return {"logits": net.double()(images).float().numpy()}


def _specs() -> list[TensorSpec]:
    return [TensorSpec("input", (None, *_SHAPE))]


def _checked(runner: Runner, expected: Mapping[str, np.ndarray], feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run a runner in each of its modes, compare its outputs, and return its description."""
    with runner:
        verdict = compare_outputs(expected, runner.infer(feeds), TOLERANCES["float32"])
        if not verdict.ok:
            raise CheckFailed(f"its outputs are wrong: {verdict.reason}", where=runner.name)
        call = runner.bind(feeds)
        for _ in range(3):
            call()
        # Other inputs in between must neither change the bindings of the call nor invalidate it.
        runner.infer(feeds)
        call()
        described = runner.describe()
        if described["device"] != "cpu":
            if not isinstance(call, DeviceTimed) and "provider" in described and runner.name != "ort":
                raise CheckFailed("the device reports no times", where=runner.name)
            if isinstance(call, DeviceTimed):
                described["device_ns"] = call.device_ns()
        if str(described.get("cuda_graph", "")).startswith("failed"):
            raise CheckFailed(f"no CUDA graph: {described['cuda_graph']}", where=runner.name)
    return {"error": verdict.max_rel_error, **described}


def _all_checked(
    ways: Mapping[str, Callable[[], Runner]], expected: Mapping[str, np.ndarray], feeds: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Check every runner, even if others fail; return the description of each, or why it is missing.

    Raises:
        CheckFailed: At least one runner is wrong; the message names each and the reason.
    """
    figures: dict[str, Any] = {}
    wrong = []
    for way, make in ways.items():
        try:
            figures[way] = _checked(make(), expected, feeds)
        except MissingError as error:
            figures[way] = error.line
        except Exception as error:  # anything that a library raises
            wrong.append(f"{way}: {error.line if isinstance(error, IrepdeployError) else one_line(error)}")
    if wrong:
        right = [way for way, found in figures.items() if isinstance(found, dict)]
        raise CheckFailed("; ".join([*wrong, f"right: {', '.join(right) or 'none'}"]))
    return figures


def _runners(request: Request) -> Found:
    net, feeds = _network(), _feeds()
    content = onnx_of(net, _specs(), ["logits"])
    on_gpu = request.device == "cuda"
    kinds: dict[str, Callable[..., Runner]] = {
        "torch": lambda **how: TorchRunner(net, _specs(), ["logits"], device=request.device, **how),
        "ort-cpu": lambda transfers: OrtRunner(content),
    }
    if on_gpu:
        request.need_gpu()
        kinds["torch-graph"] = lambda **how: TorchGraphRunner(net, _specs(), ["logits"], **how)
        kinds["ort-cuda"] = lambda **how: OrtRunner(content, provider="CUDAExecutionProvider", **how)
        kinds["trt"] = lambda **how: _engine_runner(net, request, "tensorrt", **how)
    ways = {
        f"{kind}, {transfers}": partial(make, transfers=transfers)
        for kind, make in kinds.items()
        for transfers in ("excluded", "included")
    }
    figures = _all_checked(ways, _expected(_network(), feeds), feeds)
    worked = dict.fromkeys(key.partition(",")[0] for key, value in figures.items() if isinstance(value, dict))
    missing = sorted({key.partition(",")[0] for key, value in figures.items() if isinstance(value, str)})
    return f"right: {', '.join(worked)}" + (f"; missing: {', '.join(missing)}" if missing else ""), figures


def _engine_runner(net: nn.Module, request: Request, flavour: str, **how: Any) -> TrtRunner:
    load_tensorrt(flavour)
    engine = request.out / f"check.{flavour}.engine"
    if engine not in _BUILT:
        # An existing engine was built by an earlier check, possibly on another card. Build for one batch size only:
        # TensorRT-RTX would run the first calls of other sizes with fallback kernels.
        specs = [spec.with_batch(len(_feeds()["input"])) for spec in _specs()]
        build_engine(onnx_of(net, specs, ["logits"]), engine, flavour=flavour)
        _BUILT.add(engine)
    return TrtRunner(engine, cuda_graph=True, **how)


def _compile(request: Request) -> Found:
    if request.device == "cuda":
        request.need_gpu()
    feeds = _feeds()
    runner = TorchCompileRunner(_network(), _specs(), ["logits"], device=request.device)
    found = _checked(runner, _expected(_network(), feeds), feeds)
    return f"right: error {found['error']:.1e}", {"torch-compile": found}


def _tf32(request: Request) -> Found:
    if request.device == "cuda":
        request.need_gpu()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.Flatten(), nn.Linear(128 * 64, 64)).eval()
    feeds = {"input": np.random.default_rng(1).standard_normal((8, 128, 8, 8)).astype("float32")}
    errors = {}
    for tf32 in (False, True):
        runner = TorchRunner(net, [TensorSpec("input", (None, 128, 8, 8))], ["y"], device=request.device, tf32=tf32)
        with runner:
            errors[tf32] = runner.infer(feeds)["y"]
    with torch.inference_mode():
        exact = net.double()(torch.from_numpy(feeds["input"]).double()).numpy()
    off, on = (float(np.abs(errors[tf32] - exact).max() / np.abs(exact).max()) for tf32 in (False, True))
    figures = {"error_off": off, "error_on": on}
    said = f"error {off:.1e} with TF32 off, {on:.1e} with it on"
    if not off <= _FP32_ERROR:
        raise CheckFailed(f"float32 is rounded although TF32 is off: {said}", where="TF32")
    if request.device == "cuda" and torch.cuda.get_device_capability()[0] >= 8 and not on >= _TF32_ERROR:
        raise CheckFailed(f"TF32 has no effect: {said}", where="TF32")
    return said, figures


def _clock(request: Request) -> Found:
    """Compare the device time of single calls with that of many replays between two events."""
    request.need_gpu()
    torch.manual_seed(0)
    net = folded(randomize_statistics(build_plain("vgg16", num_classes=10), 0).eval())
    before = machine_state()["gpu"]
    times = {batch: _one_and_of_many(net, batch) for batch in _CLOCK_BATCHES}
    after = machine_state()["gpu"]
    differences = {batch: abs(one - many) / many for batch, (one, many) in times.items()}
    figures = {
        "batches": {
            str(batch): {"one_ns": one, "of_many_ns": many, "difference": differences[batch]}
            for batch, (one, many) in times.items()
        },
        "before": before,
        "after": after,
    }
    said = "; ".join(
        f"batch {batch}: {one / 1e3:.1f} us a call, {many / 1e3:.1f} us of {_REPLAYS} replays"
        for batch, (one, many) in times.items()
    )
    off = differences[_CLOCK_BATCHES[0]]
    if not off <= _ALLOWED_CLOCK:
        raise CheckFailed(f"the device's times differ by {off:.1%}: {said}", where="clock")
    return said, figures


def _one_and_of_many(net: nn.Module, batch: int) -> tuple[float, float]:
    """Return the device time of a single call, and per call of many, in ns."""
    images = np.random.default_rng(0).standard_normal((batch, 3, 32, 32)).astype("float32")
    with TorchGraphRunner(net, [TensorSpec("input", (batch, 3, 32, 32))], ["logits"]) as runner:
        call = runner.bind({"input": images})
        assert isinstance(call, DeviceTimed)
        for _ in range(_REPLAYS):
            call()
        singles = []
        for _ in range(_REPLAYS):
            call()
            singles.append(call.device_ns())
        one = statistics.median(singles)
        tensors = [torch.from_numpy(images).cuda()]
        replay = runner._closed(tensors)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_REPLAYS):
            replay()
        end.record()
        torch.cuda.synchronize()
        return one, start.elapsed_time(end) * 1e6 / _REPLAYS


def _rtx(request: Request) -> Found:
    """Run TensorRT-RTX, as ONNX Runtime's plugin and with our own engine, if its wheels are available."""
    request.need_gpu()
    import onnxruntime

    net, feeds = _network(), _feeds()
    content, expected = onnx_of(net, _specs(), ["logits"]), {}
    with OrtRunner(content) as reference:
        expected = reference.infer(feeds)
    ways: dict[str, Callable[[], Runner]] = {
        "plugin": lambda: OrtRunner(content, provider="NvTensorRTRTXExecutionProvider"),
        "engine": lambda: _engine_runner(net, request, "tensorrt_rtx"),
    }
    figures = _all_checked(ways, expected, feeds)
    if hasattr(onnxruntime, "get_ep_devices"):
        figures["devices"] = [str(device.ep_name) for device in onnxruntime.get_ep_devices()]
    right = [way for way in ways if isinstance(figures[way], dict)]
    if not right:
        raise MissingError(f"not carried: {figures['plugin']}")
    missing = [f"; {way}: {figures[way]}" for way in ways if way not in right]
    return f"equal to ONNX Runtime on the CPU: {', '.join(right)}" + "".join(missing), figures


def _latency(request: Request, *, tf32: bool = False, compiled: bool = False) -> Found:
    if request.device == "cuda":
        request.need_gpu()
    return measure_latencies(request.device, request.out / "latency", tf32=tf32, compiled=compiled)


STEPS: dict[str, Callable[[Request], Found]] = {
    "bindings": lambda request: check_bindings(),
    "graphs": lambda request: check_graphs(),
    "runners": _runners,
    "compile": _compile,
    "tf32": _tf32,
    "clock": _clock,
    "rtx": _rtx,
    "latency": _latency,
    "latency, compiled": lambda request: _latency(request, compiled=True),
    "latency, TF32": lambda request: _latency(request, tf32=True),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a step and print its finding."""
    parser = argparse.ArgumentParser(prog="device_steps")
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    request = Request(given.device, given.out)
    try:
        print(json.dumps(answer(lambda: STEPS[given.name](request)), default=str), flush=True)
    except InputError as error:
        print(json.dumps({"status": "failed", "said": error.line, "figures": {}}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
