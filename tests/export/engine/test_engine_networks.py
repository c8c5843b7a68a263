"""Every small network of the registry through a real parser and builder: TensorRT-RTX, assembled for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from irepdeploy.board.runner import TensorSpec
from irepdeploy.export.engine.engine import EngineReport, build_engine
from irepdeploy.export.precision.fp16 import half_graph
from irepdeploy.export.precision.int8 import quantized
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.network.nets import NETS, build_plain
from irepdeploy.network.nets.statistics import randomize_statistics

pytestmark = pytest.mark.trt

LARGEST = 30_000_000


# One network of each kind; all others run in nightly.
FAST = ("vgg6", "resnet18_cifar", "repvgg_a0", "cars_lat_a")


def small_networks() -> list[Any]:
    """Plain networks, to which networks with branches fuse; the first one of equal networks."""
    distinct: dict[str, str] = {}
    for name, net in NETS.items():
        # Detectors, whose outputs are no logits.
        if net.where != "*":
            continue
        distinct.setdefault(repr((net.builder, net.input_shape, net.args)), name)
    with torch.device("meta"):
        small = [name for name in distinct.values() if "genotype" in NETS[name].args or params(name) < LARGEST]
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in small]


def params(name: str) -> int:
    return sum(tensor.numel() for tensor in build_plain(name).parameters())


def written(name: str) -> onnx.ModelProto:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomize_statistics(build_plain(name)).eval()
    return onnx_from_torch(model, [TensorSpec("input", (1, *NETS[name].input_shape))], ["logits"])


def built(model: onnx.ModelProto, folder: Path, precision: str = "fp32") -> EngineReport:
    report = build_engine(serialized(model), folder / "m.engine", flavour="tensorrt_rtx", precision=precision)
    (folder / "m.engine").unlink()
    return report


def weights_bytes(model: onnx.ModelProto) -> int:
    return sum(onnx.numpy_helper.to_array(one).nbytes for one in model.graph.initializer)


def convolutions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Conv" for node in model.graph.node)


@pytest.mark.parametrize("name", small_networks())
def test_fp32(name: str, tmp_path: Path) -> None:
    model = written(name)
    report = built(model, tmp_path)
    assert report.layers["convolution_inputs"] == {"Float": convolutions(model)}
    weights = weights_bytes(model)
    # Channels are padded, and tables of its own are added.
    assert 0.99 * weights < report.layers["weights_bytes"] < 1.05 * weights + 100_000


@pytest.mark.parametrize("name", [pytest.param("vgg16", marks=pytest.mark.slow), "resnet18_cifar", "repvgg_a0"])
def test_fp16_and_int8(name: str, tmp_path: Path) -> None:
    model = written(name)
    half = built(half_graph(model), tmp_path, "fp16")
    assert half.layers["convolution_inputs"] == {"Half": convolutions(model)}
    assert half.layers["weights_bytes"] < 0.6 * weights_bytes(model)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *NETS[name].input_shape)).astype(np.float32)
    whole = built(quantized(model, {"input": images}), tmp_path, "int8")
    assert whole.layers["convolution_inputs"] == {"Int8": convolutions(model)}
    assert whole.layers["weights_bytes"] < 0.6 * half.layers["weights_bytes"]
