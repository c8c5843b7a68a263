"""The first bad layer is found by name in every form that is written, and none is reported if nothing is wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_node
from torch import nn

import irepdeploy
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.diagnosis import layer_error
from irepdeploy.export.diagnosis.first_bad_layer import LayerError, first_bad_layer, first_bad_module
from irepdeploy.export.precision.equalize import equalized, equalized_like, hidden_pairs, rescaled
from irepdeploy.export.precision.fp16 import half_graph
from irepdeploy.export.precision.inference import run_parts
from irepdeploy.export.precision.int8 import quantized
from irepdeploy.export.target.target import TARGETS
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.export.writer.torch_exporter import onnx_by_torch
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance
from support.graph_writer import onnx_model
from support.networks import random_network, small_resnet

FLOAT32 = TOLERANCES["float32"]
SPEC = TensorSpec("input", (1, 3, 16, 16))
BAD = "layer2.0.conv2"


def images(count: int, *shape: int) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)}


IMAGES = images(5, 3, 16, 16)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return small_resnet()


@pytest.fixture(scope="module")
def int8(residual: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """`residual` quantized, by the type of its activations."""
    return {kind: quantized(residual, IMAGES["input"], activations=kind) for kind in ("int8", "uint8")}


def spoilt(model: onnx.ModelProto, tensor: str, value: float = 3.0) -> onnx.ModelProto:
    """Return a copy with the initializer of this name multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weight = next(item for item in copy.graph.initializer if item.name == tensor)
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array((array * value).astype(array.dtype), tensor))
    return copy


def chain(*operators: str, batch: int | str = 1, **constants: float) -> onnx.ModelProto:
    """x (batch, 4) through these operators, each with its constant where there is one; nodes are n0, n1, ..."""
    nodes, last = [], "input"
    for index, operator in enumerate(operators):
        inputs = [last, f"c{index}"] if f"c{index}" in constants else [last]
        nodes.append(make_node(operator, inputs, [f"t{index}"], f"n{index}"))
        last = f"t{index}"
    return onnx_model(nodes, {"input": (batch, 4)}, {last: (batch, 4)}, constants)


# ONNX against ONNX.


def test_the_layer_is_found_in_every_form(residual: onnx.ModelProto, tmp_path: Path) -> None:
    before = serialized(residual)
    bad = spoilt(residual, f"{BAD}.weight")
    assert first_bad_layer(residual, residual, IMAGES, Tolerance(0.0)) is None
    assert first_bad_layer(residual, half_graph(residual), IMAGES, TOLERANCES["float16"]) is None
    forms = {"float32": bad, "float16": half_graph(bad), "int8": quantized(bad, IMAGES["input"])}
    for precision, result in forms.items():
        found = first_bad_layer(residual, result, IMAGES, TOLERANCES[precision])
        assert found is not None and (found.layer, found.tensor) == (BAD, BAD)
        # Biases stay: about 3 - 1.
        assert 1 < found.error < 3
    path, other = tmp_path / "a ü.onnx", tmp_path / "b.onnx"
    path.write_bytes(before)
    other.write_bytes(serialized(bad))
    assert first_bad_layer(path, other, IMAGES, FLOAT32) == first_bad_layer(residual, bad, IMAGES, FLOAT32)
    assert serialized(residual) == before


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_nothing_is_wrong_in_int8(
    residual: onnx.ModelProto, int8: dict[str, onnx.ModelProto], activations: str
) -> None:
    model = int8[activations]
    # A ReLU that became part of the rounding does not count as a difference.
    assert first_bad_layer(residual, model, IMAGES, TOLERANCES["int8"]) is None
    found = first_bad_layer(residual, model, IMAGES, Tolerance(1e-6))
    assert found is not None and found.layer in ("conv1", "relu") and 1e-4 < found.error < 0.05


def test_an_int8_layer_with_its_sign_turned(residual: onnx.ModelProto) -> None:
    for activations in ("int8", "uint8"):
        model = quantized(spoilt(residual, f"{BAD}.weight", -1), IMAGES["input"], activations=activations)
        found = first_bad_layer(residual, model, IMAGES, TOLERANCES["int8"])
        assert found is not None and found.layer == BAD


def test_the_last_layer_whatever_its_output_is_called(residual: onnx.ModelProto) -> None:
    half = half_graph(spoilt(residual, "fc.weight", 2))
    found = first_bad_layer(residual, half, IMAGES, TOLERANCES["float16"])
    assert found is not None and (found.layer, found.tensor) == ("fc", "logits")


def test_tensors_of_other_names_are_matched_by_their_nodes(residual: onnx.ModelProto) -> None:
    bad = spoilt(residual, f"{BAD}.weight")
    for node in bad.graph.node:
        node.input[:] = [f"{name}.x" if name == BAD else name for name in node.input]
        node.output[:] = [f"{name}.x" if name == BAD else name for name in node.output]
    found = first_bad_layer(residual, bad, IMAGES, FLOAT32)
    assert found is not None and found.layer == BAD


def test_a_convolution_that_took_in_what_is_behind_it() -> None:
    """The output of its node has changed, but its tensor has the name of the new value."""
    a = chain("Mul", "Add", "Relu", c0=2.0, c1=1.0)
    nodes = [
        make_node("Mul", ["input", "c"], ["twice"], "twice"),
        make_node("Add", ["twice", "one"], ["t1"], "n0"),
        make_node("Relu", ["t1"], ["t2"], "n2"),
    ]
    b = onnx_model(nodes, {"input": (1, 4)}, {"t2": (1, 4)}, {"c": 2.0, "one": 1.0})
    x = {"input": np.ones((1, 4), np.float32)}
    assert first_bad_layer(a, b, x, FLOAT32) is None
    b.graph.node[0].name, b.graph.node[1].name = "other", "n0"
    b.graph.node[1].op_type = "Mul"
    # n0 is a Mul in both, but its output is t1, which is another tensor of the reference.
    found = first_bad_layer(a, b, x, FLOAT32)
    assert found is not None and found.tensor == "t1" and found.error == pytest.approx(1 / 3)


def test_what_is_not_finite() -> None:
    x = {"input": np.array([[-1, 2, 3, 4]], np.float32)}
    fine, broken = chain("Mul", "Relu", c0=1e30), chain("Mul", "Relu", c0=1e38)
    for a, b in ((fine, broken), (broken, fine), (broken, broken)):
        found = first_bad_layer(a, b, x, Tolerance(math.inf))
        assert found is not None and found.layer == "n0" and not math.isfinite(found.error)
    found = first_bad_layer(chain("Abs", "Sqrt"), chain("Identity", "Sqrt"), x, Tolerance(0.9))
    assert found is not None and found.layer == "n1" and math.isnan(found.error)
    nan = chain("Identity", "Sqrt")
    found = first_bad_layer(nan, nan, x, FLOAT32)
    assert found is not None and found.layer == "n1" and math.isnan(found.error)


def test_what_is_zero() -> None:
    x = {"input": np.ones((2, 4), np.float32)}
    dead, alive = chain("Mul", c0=0.0), chain("Mul", c0=1.0)
    assert first_bad_layer(dead, dead, x, TOLERANCES["float16"]) is None
    assert first_bad_layer(dead, alive, x, FLOAT32) == LayerError("n0", "t0", math.inf)
    assert first_bad_layer(alive, dead, x, FLOAT32) == LayerError("n0", "t0", 1.0)
    # A cosine of 0 counts as a difference if the size of the error does not matter.
    assert first_bad_layer(alive, dead, x, TOLERANCES["int8"]) == LayerError("n0", "t0", 1.0)


@pytest.mark.parametrize("batches", [(1, 1), ("n", 4), (4, 6)])
@pytest.mark.parametrize("place", [0, 30])
def test_the_error_is_over_all_inputs(batches: tuple[int | str, int | str], place: int) -> None:
    x = np.ones((31, 4), np.float32)
    a, b = chain("Relu", batch=batches[0]), chain("Identity", batch=batches[1])
    assert first_bad_layer(a, b, {"input": x}, FLOAT32) is None
    x[place, 1] = -10
    assert first_bad_layer(a, b, {"input": x}, FLOAT32) == LayerError("n0", "t0", 10.0)


@pytest.mark.parametrize("batches", [(1, 4), (4, 6), ("n", 4), (2, "n"), ("n", "n")])
def test_models_of_other_batches(batches: tuple[int | str, int | str]) -> None:
    a, b = (chain("Add", "Abs", "Add", c0=-1.0, c2=1.0, batch=batch) for batch in batches)
    x = {"input": np.random.default_rng(0).standard_normal((21, 4), dtype=np.float32)}
    assert first_bad_layer(a, b, x, Tolerance(0.0)) is None
    found = first_bad_layer(a, spoilt(b, "c2"), x, FLOAT32)
    assert found is not None and found.layer == "n2"


def test_parts_of_another_size() -> None:
    """Compare a model that only runs with its batch of 1 with one that takes any batch."""
    a, b = chain("Identity", "Abs"), chain("Identity", "Abs")
    a.graph.node[0].op_type = "Reshape"
    a.graph.node[0].input.append("shape")
    a.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 4]), "shape"))
    x = {"input": np.random.default_rng(0).standard_normal((21, 4), dtype=np.float32)}
    assert [len(list(run_parts(model, x))) for model in (a, b)] == [21, 2]
    assert first_bad_layer(a, b, x, Tolerance(0.0)) is None
    b.graph.node[1].op_type = "Neg"
    found = first_bad_layer(a, b, x, FLOAT32)
    assert found is not None and found.layer == "n1" and found.error == pytest.approx(2, rel=0.5)


@pytest.mark.parametrize("held", [1, 5000, 2**24])
def test_in_portions(residual: onnx.ModelProto, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_error, "_HELD", held)
    model = chain(*["Abs"] * 12, "Add", "Neg", c12=1.0)
    x = {"input": np.random.default_rng(0).standard_normal((16, 4), dtype=np.float32)}
    assert first_bad_layer(model, model, x, Tolerance(0.0)) is None
    found = first_bad_layer(model, spoilt(model, "c12"), x, FLOAT32)
    assert found is not None and found.layer == "n12"


def test_few_numbers_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_error, "_HELD", 3 * 64)
    portions: list[int] = []

    def counted(*args: object) -> object:
        for count, outputs in run_parts(*args):  # type: ignore[arg-type]
            portions.append(len(outputs))
            yield count, outputs

    monkeypatch.setattr("irepdeploy.export.diagnosis.first_bad_layer.run_parts", counted)
    model = chain(*["Abs"] * 8)
    first_bad_layer(model, model, {"input": np.ones((16, 4), np.float32)}, FLOAT32)
    assert portions == [3, 3, 3, 3, 2, 2]


def test_several_inputs() -> None:
    nodes = [make_node("Relu", ["a"], ["r"], "r"), make_node("Sub", ["r", "b"], ["y"], "s")]
    model = onnx_model(nodes, {"a": (1, 4), "b": (1, 4)}, {"y": (1, 4)})
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[1].op_type = "Add"
    x = {name: np.ones((3, 4), np.float32) * value for name, value in (("a", 3), ("b", 2))}
    assert first_bad_layer(model, model, x, FLOAT32) is None
    assert first_bad_layer(model, other, x, FLOAT32) == LayerError("s", "y", 4.0)
    with pytest.raises(InputError, match=r"expected inputs \['a', 'b'\], got \['a'\]"):
        first_bad_layer(model, other, {"a": x["a"]}, FLOAT32)


def test_equalized_weights_are_no_difference() -> None:
    plain = onnx_from_torch(random_network(), [TensorSpec("input", (1, 1, 16, 16))], ["logits"])
    rng = np.random.default_rng(0)
    stretched = rescaled(plain, {pair: 10 ** rng.uniform(-1, 1, pair.channels) for pair in hidden_pairs(plain)})
    x = images(8, 1, 16, 16)
    for activations in ("int8", "uint8"):
        even = quantized(equalized(stretched)[0], x["input"], activations=activations)
        assert first_bad_layer(stretched, even, x, TOLERANCES["int8"]) is None
        assert equalized_like(plain, quantized(plain, x["input"], activations=activations)) is plain
    bad = quantized(spoilt(equalized(stretched)[0], "stages.1.1.conv.weight", -1), x["input"])
    found = first_bad_layer(stretched, bad, x, TOLERANCES["int8"])
    assert found is not None and found.layer == "stages.1.1.conv"


def test_nothing_in_common_and_files_that_are_none(tmp_path: Path) -> None:
    x = {"input": np.ones((1, 4), np.float32)}
    a, b = chain("Abs"), chain("Neg")
    b.graph.node[0].name, b.graph.node[0].output[0], b.graph.output[0].name = "other", "o", "o"
    assert first_bad_layer(a, b, x, FLOAT32) is None
    (tmp_path / "none.onnx").write_bytes(b"\xffno model")
    with pytest.raises(ModelError, match=r"none\.onnx: not an ONNX model"):
        first_bad_layer(a, tmp_path / "none.onnx", x, FLOAT32)
    with pytest.raises(InputError, match="no such ONNX file"):
        first_bad_layer(tmp_path / "missing.onnx", a, x, FLOAT32)


# A network against ONNX.


class Shared(nn.Module):
    """A normalization that is not folded, one that is, a layer that is called twice, in place, and a functional."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.drop = nn.Dropout()
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.drop(self.conv(self.first(x))))
        y = self.act(y) + self.act(x - 0.5)
        scores: torch.Tensor = self.fc(self.pool(y).flatten(1))
        return scores


@pytest.fixture
def shared() -> nn.Module:
    torch.manual_seed(0)
    net = Shared()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def test_every_kind_of_module(shared: nn.Module) -> None:
    spec = TensorSpec("input", (1, 3, 8, 8))
    model = onnx_from_torch(shared, [spec], ["logits"])
    x = images(18, 3, 8, 8)
    assert first_bad_module(shared, model, x, FLOAT32) is None
    assert first_bad_module(shared, half_graph(model), x, TOLERANCES["float16"]) is None
    for tensor, layer in (
        ("first.weight", "first"),
        ("conv.weight", "conv"),
        ("conv.bias", "conv"),
        ("fc.weight", "fc"),
    ):
        found = first_bad_module(shared, spoilt(model, tensor), x, FLOAT32)
        assert found is not None and found.layer == layer and found.error > 0.01, tensor
    nodes = {node.name: node for node in model.graph.node}
    assert "bn" not in nodes and "act_1" in nodes
    nodes["act_1"].op_type = "Abs"
    found = first_bad_module(shared, model, x, FLOAT32)
    assert found is not None and (found.layer, found.tensor) == ("act_1", "act_1")


def test_a_residual_network_and_its_blocks(
    network: nn.Module, residual: onnx.ModelProto, int8: dict[str, onnx.ModelProto]
) -> None:
    assert first_bad_module(network, residual, IMAGES, FLOAT32) is None
    found = first_bad_module(network, spoilt(residual, f"{BAD}.weight"), IMAGES, FLOAT32)
    assert found is not None and found.layer == BAD and 1 < found.error < 3
    for model in int8.values():
        assert first_bad_module(network, model, IMAGES, TOLERANCES["int8"]) is None
    blocks = random_network(branches="repvgg")
    model = onnx_from_torch(irepdeploy.fuse(blocks), [TensorSpec("input", (1, 1, 16, 16))], ["logits"])
    x = images(3, 1, 16, 16)
    assert first_bad_module(blocks, model, x, FLOAT32) is None
    found = first_bad_module(blocks, spoilt(model, "stages.1.0.conv.weight"), x, FLOAT32)
    assert found is not None and found.layer == "stages.1.0.conv"


def test_what_torch_itself_wrote(network: nn.Module) -> None:
    written = onnx_by_torch(network, [SPEC], ["logits"], target=TARGETS["ort"])
    assert first_bad_module(network, written.model, IMAGES, FLOAT32) is None
    weight = next(node.input[1] for node in written.model.graph.node if node.name.startswith(BAD))
    found = first_bad_module(network, spoilt(written.model, weight), IMAGES, FLOAT32)
    assert found is not None and found.layer == BAD


def test_the_network_is_left_as_it_is(shared: nn.Module) -> None:
    model = onnx_from_torch(shared, [TensorSpec("input", (1, 3, 8, 8))], ["logits"])
    first_bad_module(shared, model, images(2, 3, 8, 8), FLOAT32)
    assert not any(module._forward_hooks for module in shared.modules())
    with pytest.raises(InputError, match="train mode"):
        first_bad_module(shared.train(), model, images(2, 3, 8, 8), FLOAT32)


def test_no_module_has_a_node(shared: nn.Module) -> None:
    assert first_bad_module(shared, chain("Abs"), {"input": np.ones((1, 3, 8, 8), np.float32)}, FLOAT32) is None
