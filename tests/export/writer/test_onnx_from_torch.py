"""The ONNX writer: numerics, names, outputs, folding, and unsupported networks."""

from __future__ import annotations

import operator
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.network.nets.statistics import randomize_statistics
from support.networks import random_network
from support.operator_networks import Call, conv


def written(model: nn.Module, shape: tuple[int, ...], outputs: tuple[str, ...] = ("logits",)) -> onnx.ModelProto:
    return onnx_from_torch(model.eval(), [TensorSpec("input", (1, *shape))], outputs)


def check_same(model: nn.Module, shape: tuple[int, ...], outputs: tuple[str, ...] = ("logits",)) -> onnx.ModelProto:
    """Write, check, run, and compare with torch."""
    proto = written(model, shape, outputs)
    content = serialized(proto)
    onnx.checker.check_model(content, full_check=True)
    x = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(x.copy()))
    with OrtRunner(content) as runner:
        found = runner.infer({"input": x})
    expected = expected if isinstance(expected, tuple) else (expected,)
    for name, tensor in zip(outputs, expected, strict=True):
        reference = tensor.numpy()
        assert found[name].shape == reference.shape
        assert np.abs(found[name] - reference).max() <= 2e-6 * np.abs(reference).max()
    return proto


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def test_names_come_from_the_module_tree() -> None:
    graph = written(random_network("resnet18_cifar"), (3, 16, 16)).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for name in ("conv1", "layer1.0.conv1", "layer1.0.add", "layer1.0.relu_1", "layer2.0.downsample.0", "fc"):
        assert name in names
    weights = {tensor.name for tensor in graph.initializer}
    assert {"layer1.0.conv1.weight", "layer1.0.conv1.bias", "fc.weight", "fc.bias"} <= weights
    assert graph.input[0].name == "input" and graph.output[0].name == "logits"


CONVOLUTIONS = {
    "grouped": {"groups": 2},
    "depthwise": {"groups": 4, "bias": False},
    "dilated": {"dilation": (2, 1), "padding": (2, 1)},
    "strided": {"stride": (2, 1), "padding": (0, 1)},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "even same": {"kernel_size": (2, 4), "padding": "same"},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("folded", [True, False])
def test_convolutions_of_every_geometry(kind: str, folded: bool) -> None:
    layer = conv(4, 4, **{"kernel_size": 3, **CONVOLUTIONS[kind]})
    bn = randomize_statistics(nn.BatchNorm2d(4))
    proto = check_same(nn.Sequential(layer, bn, nn.ReLU()) if folded else nn.Sequential(layer, nn.ReLU()), (4, 9, 8))
    assert operators(proto) == Counter(Conv=1, Relu=1)


FUNCTIONS = {
    "residual": lambda m, x: F.relu(m.bn(m.conv(x)) + x),
    "torch.add": lambda m, x: torch.add(m.conv(x), x),
    "add a number": lambda m, x: m.conv(x) + 1.5,
    "sum": lambda m, x: sum([m.conv(x), x]),
    "concat": lambda m, x: torch.cat([m.conv(x), x], 1),
    "concat from behind": lambda m, x: torch.cat((x, m.conv(x), x), dim=-3),
    "max pool": lambda m, x: F.max_pool2d(m.conv(x), 3, 2, 1),
    "average pool": lambda m, x: F.avg_pool2d(x, 3, 2, 1),
    "average pool, padding not counted": lambda m, x: F.avg_pool2d(x, (3, 2), 1, (1, 0), count_include_pad=False),
    "adaptive pool": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "regular adaptive pool": lambda m, x: F.adaptive_avg_pool2d(x, (4, 2)),
    "mean": lambda m, x: m.conv(x).mean((2, 3)),
    "mean from behind": lambda m, x: torch.mean(x, dim=[-1, -2], keepdim=True),
    "view": lambda m, x: m.conv(x).view(x.size(0), -1),
    "reshape": lambda m, x: x.contiguous().reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]),
    "flatten": lambda m, x: torch.flatten(m.conv(x), 1),
    "dropout": lambda m, x: F.dropout(m.conv(x), 0.5, m.training),
    "in place, read again": lambda m, x: (lambda y: F.relu(y, inplace=True) + y)(m.conv(x)),
    "in place, result thrown away": lambda m, x: (lambda y: (torch.relu_(y), y)[1])(m.conv(x)),
    "iadd": lambda m, x: (lambda y: m.conv(operator.iadd(y, x)) + y)(m.conv(x)),
    "iadd on a size": lambda m, x: x.view(operator.iadd(x.size(0), 0), -1),
    "conv read twice": lambda m, x: (lambda y: m.bn(y) + y)(m.conv(x)),
    "bn first": lambda m, x: m.bn(x),
    "two bn": lambda m, x: m.bn(m.bn(m.conv(x))),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_and_methods(kind: str) -> None:
    model = Call(FUNCTIONS[kind], conv=conv(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4))
    check_same(randomize_statistics(model), (4, 8, 6))


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d((2, 3), (2, 1), (1, 0)),
        nn.MaxPool2d(3, 1, 1, dilation=1, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((None, 1)),
        nn.BatchNorm2d(4, affine=False),
        nn.Dropout(0.5),
    ],
    ids=str,
)
def test_modules(layer: nn.Module) -> None:
    check_same(randomize_statistics(nn.Sequential(nn.ReLU(), layer)), (4, 8, 6))


def test_linear_without_bias() -> None:
    torch.manual_seed(0)
    check_same(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3, bias=False)), (4, 8, 6))


def test_a_module_used_twice_shares_its_weights() -> None:
    block = conv(4, 4, 3, padding=1)
    graph = check_same(Call(lambda m, x: m.conv(F.relu(m.conv(x))), conv=block), (4, 8, 6)).graph
    assert [node.name for node in graph.node if node.op_type == "Conv"] == ["conv", "conv_1"]
    assert sorted(tensor.name for tensor in graph.initializer) == ["conv.bias", "conv.weight"]


def test_a_convolution_behind_which_two_normalizations_fold() -> None:
    model = Call(
        lambda m, x: m.a(m.conv(x)) + m.b(m.conv(x)), conv=conv(4, 4, 3), a=nn.BatchNorm2d(4), b=nn.BatchNorm2d(4)
    )
    assert operators(check_same(randomize_statistics(model), (4, 8, 6))) == Counter(Conv=2, Add=1)


@pytest.mark.parametrize(
    ("function", "outputs"),
    [
        (lambda m, x: (m.conv(x), F.relu(m.conv(x))), ("a", "b")),
        (lambda m, x: (lambda y: (y, y))(m.conv(x)), ("a", "b")),
        (lambda m, x: (lambda y: (y, F.relu(y)))(m.conv(x)), ("a", "b")),
        (lambda m, x: (x, m.conv(x)), ("a", "b")),
        (lambda m, x: x, ("a",)),
        (lambda m, x: m.conv(x), ("conv",)),
    ],
)
def test_outputs(function: object, outputs: tuple[str, ...]) -> None:
    check_same(Call(function, conv=conv(4, 4, 3, padding=1)), (4, 8, 6), outputs)


def test_what_nothing_reads_is_not_written() -> None:
    def dead(m: nn.Module, x: Tensor) -> Tensor:
        m.other(x)
        return m.conv(x)  # type: ignore[no-any-return]

    graph = check_same(Call(dead, conv=conv(4, 4, 3), other=conv(4, 4, 3)), (4, 8, 6)).graph
    assert len(graph.node) == 1 and len(graph.initializer) == 2


@pytest.mark.parametrize("between", [nn.Identity(), nn.Dropout(0.5), nn.BatchNorm2d(4)], ids=str)
def test_a_normalization_folds_through_what_does_nothing(between: nn.Module) -> None:
    model = nn.Sequential(conv(4, 4, 3), between, nn.BatchNorm2d(4))
    assert operators(check_same(randomize_statistics(model), (4, 8, 6))) == Counter(Conv=1)


@pytest.mark.parametrize("function", [False, True])
def test_a_normalization_folds_into_a_linear_layer(function: bool) -> None:
    """It is not folded if the layer is read twice, or if it normalizes another dimension than that of the weights."""
    torch.manual_seed(0)
    dense, bn = nn.Linear(6, 8, bias=not function), nn.BatchNorm1d(8)
    layer = Call(lambda m, x: m.bn(F.linear(x, m.dense.weight)), dense=dense, bn=bn) if function else None
    head = (nn.Linear(6, 8), nn.Dropout(), nn.BatchNorm1d(8)) if layer is None else (layer,)
    graph = check_same(
        randomize_statistics(nn.Sequential(conv(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)), (4, 8, 6)
    )
    assert not {"BatchNormalization", "Mul", "Add"} & set(operators(graph))
    twice = Call(lambda m, x: (lambda y: m.bn(y) + y)(m.dense(x)), dense=dense, bn=bn)
    net = randomize_statistics(nn.Sequential(nn.Flatten(), nn.Linear(24, 6), twice))
    assert operators(check_same(net, (4, 6)))["Mul"] == 1
    rows = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(4))
    assert operators(check_same(randomize_statistics(rows), (4, 6)))["Mul"] == 1


def test_the_fold_is_rounded_once() -> None:
    layer, bn = conv(64, 8, 3), randomize_statistics(nn.BatchNorm2d(8)).eval()
    graph = written(nn.Sequential(layer, bn), (64, 6, 6)).graph
    weight = onnx.numpy_helper.to_array(graph.initializer[0])
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    exact = (layer.weight.double() * scale.reshape(-1, 1, 1, 1)).detach().numpy()
    assert np.array_equal(weight, exact.astype(np.float32))


def test_metadata_opset_and_ir_version() -> None:
    model = onnx_from_torch(
        random_network(),
        [TensorSpec("x", (2, 1, 16, 16))],
        ["y"],
        opset=17,
        ir_version=9,
        metadata={"b": "2", "a": "1"},
    )
    assert model.opset_import[0].version == 17 and model.ir_version == 9
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("a", "1"), ("b", "2")]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 2


def untraceable(m: nn.Module, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def written_over(m: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    y.flatten(1).add_(1)
    return y


def written_into(m: nn.Module, x: Tensor) -> Tensor:
    memory = torch.zeros(4)
    memory += x[0, :, 0, 0]
    return x + memory[:, None, None]


REFUSED = {
    "an operator": (lambda m, x: torch.lerp(x, x * 2, 0.25), "operator lerp"),
    "a module": (lambda m, x: m.recurrent(x.flatten(2))[0], "recurrent: operator LSTM"),
    "a branch on values": (untraceable, "branches on the values"),
    "values": (lambda m, x: x * x.sum().item(), "item: forward reads the values"),
    "wrong size": (lambda m, x: m.conv(x[:, :2]), "cannot be traced with \\(1, 4, 8, 6\\)"),
    "indexed by a mask": (lambda m, x: x[x > 0], "indexing by a mask"),
    "indexed by masks": (lambda m, x: x[:, [True, False, True, True]], "indexing by a list"),
    "the places of a mask": (lambda m, x: torch.where(x > 0)[0], "condition alone"),
    "an early opset": (
        lambda m, x: F.grid_sample(x, x[:, 2:].permute(0, 2, 3, 1), align_corners=True),
        "needs opset 16",
    ),
    "changed through a view": (written_over, "in place through a view"),
    "written into": (written_into, "writes into a tensor"),
    "bicubic": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bicubic"), "bicubic resizing"),
    "bits": (lambda m, x: x.argmax(1) & 1, "bits"),
    "always dropping": (lambda m, x: F.dropout(x), "dropout"),
    "ceil": (lambda m, x: F.avg_pool2d(x, 5, 2, 1, ceil_mode=True), "ceil_mode"),
    "divisor": (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), "divisor"),
    "indices": (lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d"),
    "an argument": (lambda m, x: x.softmax(1, torch.float64, 3, 4), "arguments|traced"),
    "no statistics": (lambda m, x: m.stateless(x), "running statistics"),
    "no tensor": (lambda m, x: 3, "tensors only"),
    "two outputs": (lambda m, x: (x, m.conv(x)), "2 outputs"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_written_is_refused_by_name(kind: str) -> None:
    function, named = REFUSED[kind]
    model = Call(
        function,
        conv=conv(4, 4, 3),
        recurrent=nn.LSTM(48, 3, batch_first=True),
        stateless=nn.BatchNorm2d(4, track_running_stats=False),
    )
    with pytest.raises(ModelError, match=named):
        written(model, (4, 8, 6))


def test_branches_and_train_mode_are_refused() -> None:
    with pytest.raises(ModelError, match=r"stages.0.0.conv: branches .*fuse first"):
        written(random_network(branches="ireps"), (1, 16, 16))
    with pytest.raises(ModelError, match="train mode"):
        onnx_from_torch(random_network().train(), [TensorSpec("input", (1, 1, 16, 16))], ["logits"])


class Two(nn.Module):
    """Two inputs, one of them whole numbers, and one that may be left out; outputs in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4, 3)
        self.table = nn.Embedding(5, 4)

    def forward(
        self, image: Tensor, number: Tensor, scale: float = 2.0, mask: Tensor | None = None
    ) -> dict[str, object]:
        features = self.conv(image) * scale + self.table(number)[:, :, None, None]
        if mask is not None:
            features = features * mask
        return {"features": features, "pyramid": [features.mean((2, 3)), (features.relu(),)], "aux": None}


@pytest.mark.parametrize("names", [None, ["features", "pooled", "active"]])
def test_several_inputs_and_nested_outputs(names: list[str] | None) -> None:
    torch.manual_seed(0)
    model = Two().eval()
    specs = [TensorSpec("image", (None, 3, 7, 9)), TensorSpec("number", (None,), "int64")]
    proto = onnx_from_torch(model, specs, names)
    assert [value.name for value in proto.graph.input] == ["image", "number"]
    assert [value.name for value in proto.graph.output] == (names or ["out_0", "out_1", "out_2"])
    image, number = torch.randn(3, 3, 7, 9), torch.tensor([4, 0, 2])
    with torch.inference_mode():
        expected = model(image, number)
    with OrtRunner(serialized(proto)) as runner:
        found = list(runner.infer({"image": image.numpy(), "number": number.numpy()}).values())
    pooled, (active,) = expected["pyramid"]  # type: ignore[misc]
    for array, tensor in zip(found, (expected["features"], pooled, active), strict=True):
        assert np.abs(array - tensor.numpy()).max() <= 2e-6 * np.abs(array).max()


def test_outputs_are_named_by_their_keys() -> None:
    def function(m: nn.Module, x: Tensor) -> object:
        return {"p3": x * 2, "p4/8": m.conv(x)}

    graph = onnx_from_torch(Call(function, conv=conv(4, 4, 3)).eval(), [TensorSpec("input", (1, 4, 8, 6))]).graph
    assert [value.name for value in graph.output] == ["p3", "p4_8"]


def test_an_input_and_an_output_of_one_name() -> None:
    with pytest.raises(InputError, match="have the same name: x"):
        onnx_from_torch(Call(lambda m, x: x.relu()).eval(), [TensorSpec("x", (1, 4))], ["x"])


def test_weights_that_two_functions_read_are_written_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.conv2d(x, self.kernel).relu(), self.kernel) + self.kernel.sum()

    graph = check_same(Shared(), (4, 8, 6)).graph
    assert [tensor.name for tensor in graph.initializer] == ["kernel", "constant"]


def test_an_input_that_forward_does_not_take() -> None:
    specs = [TensorSpec("x", (1, 4, 8, 6)), TensorSpec("y", (1, 4))]
    with pytest.raises(ModelError, match="does not take 2 inputs"):
        onnx_from_torch(Call(lambda m, x: x.relu()).eval(), specs)


def test_a_third_input_is_asked_for() -> None:
    with pytest.raises(ModelError, match="requires 'number'"):
        onnx_from_torch(Two().eval(), [TensorSpec("image", (1, 3, 7, 9))])


def test_tracing_leaves_the_network_as_it_was() -> None:
    model = Call(lambda m, x: x + torch.ones(4, 1, 1) * 2).eval()
    before = set(vars(model))
    graph = onnx_from_torch(model, [TensorSpec("input", (1, 4, 8, 6))]).graph
    assert set(vars(model)) == before
    assert [tensor.name for tensor in graph.initializer] == ["constant"]
