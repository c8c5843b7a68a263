"""Every network of cells as ONNX: the same outputs in ONNX Runtime, and only the operators that it is known for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.network.nets import NETS, build
from irepdeploy.network.nets.statistics import randomize_statistics, settle_statistics
from irepdeploy.reparam.fold import folded

CELLS = [name for name, net in NETS.items() if "genotype" in net.args]
OPERATORS = {
    "Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool",
    "Relu", "Slice",
}  # fmt: skip
# Convolutions and pools, and batch normalisations that no convolution can take in: one a factorised reduction, and in
# GOLD-NAS one a skip.
NODES = {
    "darts_cifar": (439, 10, 2),
    "darts": (298, 10, 3),
    "amoebanet_a_cifar": (367, 82, 2),
    "goldnas_cifar": (487, 0, 63),
    "goldnas": (490, 0, 64),
    "cars_lat_a": (58, 42, 9),
}


def check(name: str, shape: tuple[int, int, int], batch: int) -> onnx.ModelProto:
    """Write, check and run; the outputs depend on the inputs, and a wrong layer would show in them."""
    torch.manual_seed(0)
    net = settle_statistics(randomize_statistics(build(name, input_shape=shape)).eval(), shape)
    proto = onnx_from_torch(net, [TensorSpec("input", (batch, *shape))], ["logits"])
    content = serialized(proto)
    onnx.checker.check_model(content, full_check=True)
    x = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
    with torch.inference_mode():
        expected = net.double()(torch.from_numpy(x).double()).numpy()
    with OrtRunner(content) as runner:
        found = runner.infer({"input": x})["logits"]
    size = np.abs(expected).max()
    assert found.shape == (batch, NETS[name].num_classes)
    assert np.abs(expected - expected.mean(0)).max() > 0.02 * size
    assert np.abs(found - expected).max() <= 1e-3 * size
    counts = Counter(node.op_type for node in proto.graph.node)
    assert set(counts) <= OPERATORS
    if name in NODES:
        pools = counts["MaxPool"] + counts["AveragePool"]
        assert (counts["Conv"], pools, counts["BatchNormalization"]) == NODES[name]
    return proto


@pytest.mark.parametrize("name", ["darts_cifar", "amoebanet_a_cifar", "goldnas_cifar"])
def test_small_images(name: str) -> None:
    check(name, (3, 32, 32), 3)


def test_large_images_made_small() -> None:
    check("cars_lat_a", (3, 64, 96), 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_every_one_as_it_is_built(name: str) -> None:
    check(name, NETS[name].input_shape, 2)


def test_folded_or_not_it_is_the_same_file() -> None:
    shape = (3, 16, 16)
    torch.manual_seed(0)
    net = randomize_statistics(build("goldnas_cifar", channels=4, input_shape=shape)).eval()
    specs = [TensorSpec("input", (1, *shape))]
    written, again = (onnx_from_torch(model, specs, ["logits"]) for model in (net, folded(net)))
    assert [node.op_type for node in written.graph.node] == [node.op_type for node in again.graph.node]
    for a, b in zip(written.graph.initializer, again.graph.initializer, strict=True):
        assert (a.name, a.raw_data) == (b.name, b.raw_data)
