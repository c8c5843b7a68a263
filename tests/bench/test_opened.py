"""Opened subjects for each runner, without running them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.bench.opened import Opener
from irepdeploy.bench.request import BenchRequest
from irepdeploy.bench.subject import CHECKPOINT, ENGINE, MODULE, NETWORK, RUNNERS, Subject
from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.sidecar import sidecar_path
from irepdeploy.board.trt_runner import TrtRunner
from irepdeploy.cli import main
from irepdeploy.errors import ModelError
from irepdeploy.files import sha256, write_json
from irepdeploy.reparam.origin import with_inputs
from irepdeploy.runtime.torch_compile_runner import TorchCompileRunner
from irepdeploy.runtime.torch_graph_runner import TorchGraphRunner
from irepdeploy.runtime.torch_runner import TorchRunner
from support.engine_sidecar import make_sidecar

SUBJECT = Subject("net", NETWORK, "vgg6", "torch")


@pytest.mark.parametrize(
    ("runner", "kind", "device"),
    [
        ("torch", TorchRunner, "cpu"),
        ("torch-compile", TorchCompileRunner, "cpu"),
        ("torch-graph", TorchGraphRunner, "cuda"),
    ],
)
def test_torch(runner: str, kind: type[TorchRunner], device: str) -> None:
    opener = Opener(BenchRequest(threads=3, tf32=True, transfers="included"))
    made = opener.open(replace(SUBJECT, runner=runner)).runner
    assert type(made) is kind
    assert made.name == runner
    assert (made._asked_device, made._threads, made._tf32, made._transfers) == (device, 3, True, "included")
    other = Opener(BenchRequest(device="cuda:1")).open(replace(SUBJECT, runner=runner)).runner
    assert other._asked_device == ("cuda" if runner == "torch-graph" else "cuda:1")
    assert (other._tf32, other._transfers) == (False, "excluded")


@pytest.mark.parametrize(
    ("runner", "provider"),
    [
        ("ort-cpu", "CPUExecutionProvider"),
        ("ort-cuda", "CUDAExecutionProvider"),
        ("ort-trt", "TensorrtExecutionProvider"),
        ("ort-trt-rtx", "NvTensorRTRTXExecutionProvider"),
    ],
)
def test_onnx_runtime(runner: str, provider: str) -> None:
    opener = Opener(BenchRequest(threads=3, tf32=True, transfers="included"), spinning=False)
    made = opener.open(replace(SUBJECT, runner=runner)).runner
    assert isinstance(made, OrtRunner)
    assert made._asked_provider == provider
    assert (made._threads, made._spinning, made._tf32, made._transfers) == (3, False, True, "included")
    assert made._precision == "fp32"


@pytest.mark.parametrize(("batches", "size"), [((), 1), ((8,), 8), ((1, 8), 0)])
def test_onnx_is_written_for_the_batch_that_it_is_run_with(batches: tuple[int, ...], size: int) -> None:
    made = Opener(BenchRequest(batches=batches)).open(replace(SUBJECT, runner="ort-cpu")).runner
    model = onnx.load_model_from_string(made._model)
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [size, 1, 16, 16]


def test_a_network_of_several_runners_is_built_once_from_the_seed() -> None:
    opener = Opener(BenchRequest(seed=1))
    first, second = (opener.open(replace(SUBJECT, label=label)) for label in ("a", "b"))
    assert first.runner._model is second.runner._model
    other = Opener(BenchRequest(seed=2)).open(SUBJECT).runner._model
    assert not torch.equal(next(first.runner._model.parameters()), next(other.parameters()))
    assert first.source == "network, random weights"
    assert first.artefact_sha256 is None
    assert first.facts["net"] == "vgg6"


def test_a_checkpoint_and_a_module(tmp_path: Path) -> None:
    net = ird.build("vgg6").eval()
    ird.save(net, tmp_path / "net.pt")
    opened = Opener(BenchRequest()).open(Subject("net", CHECKPOINT, str(tmp_path / "net.pt"), "torch"))
    assert opened.artefact_sha256 == sha256(tmp_path / "net.pt")
    assert opened.source == "checkpoint, train state"
    module = Opener(BenchRequest()).open(Subject("net", MODULE, "made here", "torch", module=net))
    assert module.runner._model is net
    assert (module.source, module.artefact_sha256) == ("made here", None)
    half = Subject("net", MODULE, "made here", "torch", module=ird.build("vgg6").eval().bfloat16())
    with pytest.raises(ModelError, match="bfloat16 cannot be fed"):
        Opener(BenchRequest()).open(half)


class Heads(nn.Module):
    def __init__(self, named: bool) -> None:
        super().__init__()
        self.conv, self.named = nn.Conv2d(3, 2, 3), named

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> object:
        maps = self.conv(image)
        return {"logits": maps.mean((2, 3)), "maps": maps} if self.named else (maps, scale * 2)


@pytest.mark.parametrize(("named", "names"), [(True, ["logits", "maps"]), (False, ["out_0", "out_1"])])
def test_a_network_of_several_outputs_runs_on_torch_and_onnx_runtime(named: bool, names: list[str]) -> None:
    module = with_inputs(Heads(named).eval(), [TensorSpec("image", (None, 3, 9, 7)), TensorSpec("scale", (None, 2))])
    feeds = {"image": np.ones((1, 3, 9, 7), np.float32), "scale": np.ones((1, 2), np.float32)}
    for runner in ("torch", "ort-cpu"):
        subject = Subject("net", MODULE, "made here", runner, module=module)
        with Opener(BenchRequest()).open(subject).runner as active:
            assert list(active.infer(feeds)) == names


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    write_json(sidecar_path(path), make_sidecar(b"plan", tf32=True).to_dict())
    return path


def test_an_engine(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = Subject("m", ENGINE, str(engine), "trt")
    opened = Opener(BenchRequest(transfers="included")).open(subject)
    assert isinstance(opened.runner, TrtRunner)
    assert opened.runner._wants_graph and opened.runner._transfers == "included"
    assert (opened.source, opened.artefact_sha256) == ("engine", sha256(engine))
    assert "m: the engine was built with TF32 on (recorded)" in capsys.readouterr().err
    Opener(BenchRequest(tf32=True)).open(subject)
    assert capsys.readouterr().err == ""
    write_json(sidecar_path(engine), make_sidecar(b"plan", tf32=False).to_dict())
    Opener(BenchRequest(tf32=True)).open(subject)
    assert "m: the engine was built with TF32 off (recorded)" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("runner", [name for name in RUNNERS if name not in ("torch", "torch-compile", "ort-cpu")])
def test_what_is_not_here_is_said_in_one_line(
    runner: str, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if runner.startswith("ort") and len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("this onnxruntime has more than the CPU")
    model = "model.engine" if runner == "trt" else "vgg6"
    assert main(["bench", model, "--runner", runner, "--seconds", "0", "--out", "r"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "pip install" in err or "--device cpu" in err or "irepdeploy doctor" in err
    assert not Path("r").exists()
