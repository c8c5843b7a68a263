"""Networks of the registry as ONNX: the outputs of torch in ONNX Runtime, and only a short list of operators."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.network.nets import NETS, build, build_plain
from irepdeploy.network.nets.statistics import randomize_statistics, settle_statistics
from irepdeploy.reparam.fold import folded

CONVOLUTIONAL = ["vgg6", "resnet18_cifar", "resnet50", "vgg16", "repvgg_a0", "vgg16_acnet", "resnet18", "resnet34"]
CELLS = [name for name, net in NETS.items() if "genotype" in net.args]
OPERATORS = {
    "Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool",
    "Relu", "Slice",
}  # fmt: skip
# Convolutions, pools, and batch normalizations behind no convolution: one a factorized reduction, and in GOLD-NAS one a
# skip.
NODES = {
    "darts_cifar": (439, 10, 2),
    "darts": (298, 10, 3),
    "amoebanet_a_cifar": (367, 82, 2),
    "goldnas_cifar": (487, 0, 63),
    "goldnas": (490, 0, 64),
    "cars_lat_a": (58, 42, 9),
}


def check(net: nn.Module, name: str, shape: tuple[int, ...], batch: int | None, error: float) -> Counter[str]:
    """Export, compare with torch in float64, and count the operators."""
    net = settle_statistics(randomize_statistics(net).eval(), shape)
    proto = onnx_from_torch(net, [TensorSpec("input", (batch, *shape))], ["logits"])
    content = serialized(proto)
    onnx.checker.check_model(content, full_check=True)
    assert proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param == ("" if batch else "N")
    x = np.random.default_rng(0).standard_normal((3, *shape), dtype=np.float32)
    with torch.inference_mode():
        expected = net.double()(torch.from_numpy(x).double()).numpy()
    with OrtRunner(content) as runner:
        found = runner.infer({"input": x})["logits"]
    size = np.abs(expected).max()
    assert found.shape == (3, NETS[name].num_classes)
    # The outputs depend on the inputs, so a wrong layer would show in them.
    assert np.abs(expected - expected.mean(0)).max() > 0.02 * size
    assert np.abs(found - expected).max() <= error * size
    counts = Counter(node.op_type for node in proto.graph.node)
    assert set(counts) <= OPERATORS
    if name in NODES:
        pools = counts["MaxPool"] + counts["AveragePool"]
        assert (counts["Conv"], pools, counts["BatchNormalization"]) == NODES[name]
    return counts


@pytest.mark.parametrize(
    "name", [*CONVOLUTIONAL[:5], *(pytest.param(name, marks=pytest.mark.slow) for name in CONVOLUTIONAL[5:])]
)
def test_convolutional_networks(name: str) -> None:
    torch.manual_seed(0)
    shape = NETS[name].input_shape
    counts = check(build_plain(name), name, shape if shape[1] <= 32 else (3, 64, 64), None, 1e-4)
    assert "BatchNormalization" not in counts


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("darts_cifar", (3, 32, 32)),
        ("amoebanet_a_cifar", (3, 32, 32)),
        ("goldnas_cifar", (3, 32, 32)),
        ("cars_lat_a", (3, 64, 96)),
    ],
)
def test_narrow_networks_of_cells(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(build(name, input_shape=shape, channels=4), name, shape, 3, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_every_network_of_cells(name: str) -> None:
    torch.manual_seed(0)
    shape = NETS[name].input_shape
    check(build(name), name, shape, 3, 1e-3)


def test_folding_first_gives_the_same_file() -> None:
    shape = (3, 16, 16)
    torch.manual_seed(0)
    net = randomize_statistics(build("goldnas_cifar", channels=4, input_shape=shape)).eval()
    specs = [TensorSpec("input", (1, *shape))]
    written, again = (onnx_from_torch(model, specs, ["logits"]) for model in (net, folded(net)))
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in again.graph.node]
    for a, b in zip(written.graph.initializer, again.graph.initializer, strict=True):
        assert (a.name, a.raw_data) == (b.name, b.raw_data)
