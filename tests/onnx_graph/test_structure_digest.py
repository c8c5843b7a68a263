"""The structure digest ignores names, order and weights, and differs for every change that matters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_graph.structure_digest import structure_digest

SIZE = (1, 4, 8, 8)


class Graph:
    """A model under construction, with random names, so that two models never agree by accident."""

    def __init__(self, prefix: str = "a", seed: int = 0) -> None:
        self.prefix, self.rng = prefix, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"{self.prefix}{self.count}"

    def weight(self, *shape: int, dtype: type = np.float32) -> str:
        return self.constant(self.rng.standard_normal(shape).astype(dtype))

    def constant(self, array: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), self.name()))
        return self.weights[-1].name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        out = self.name()
        self.nodes.append(helper.make_node(kind, inputs, [out], name=self.name(), **attributes))
        return out

    def conv(self, x: str, *, channels: int = 4, kernel: int = 3, bias: bool = True, **attributes: object) -> str:
        weights = [self.weight(channels, 4 // int(attributes.get("group", 1)), kernel, kernel)]
        weights += [self.weight(channels)] if bias else []
        given = {"pads": [kernel // 2] * 4, **attributes}
        return self.node("Conv", x, *weights, **{key: value for key, value in given.items() if value is not None})

    def model(
        self, *outputs: str, shape: tuple[int | str, ...] = SIZE, kind: int = TensorProto.FLOAT, opset: int = 13
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            self.prefix,
            [helper.make_tensor_value_info(f"{self.prefix}x", kind, shape)],
            [helper.make_tensor_value_info(name, kind, [None] * 4) for name in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def network(
    prefix: str = "a",
    seed: int = 0,
    *,
    end: Callable[[Graph, str], str] = lambda g, x: g.node("Relu", x),
    shape: tuple[int | str, ...] = SIZE,
    swap: bool = False,
    **attributes: object,
) -> onnx.ModelProto:
    """Two paths from the input, added, and an end; the attributes are those of the first convolution."""
    graph = Graph(prefix, seed)
    x = f"{prefix}x"
    first = graph.node("Relu", graph.conv(x, **attributes))  # type: ignore[arg-type]
    second = graph.conv(x, kernel=1)
    graph.node("Add", *((second, first) if swap else (first, second)))
    return graph.model(end(graph, graph.nodes[-1].output[0]), shape=shape)


REFERENCE = structure_digest(network())


def test_a_digest_is_64_digits() -> None:
    assert len(REFERENCE) == 64 and set(REFERENCE) <= set("0123456789abcdef")


def reordered() -> onnx.ModelProto:
    model = network("r")
    nodes = list(model.graph.node)
    # The other path first, still in topological order.
    moved = [nodes[2], nodes[0], nodes[1], *nodes[3:]]
    del model.graph.node[:]
    model.graph.node.extend(moved)
    weights = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    onnx.checker.check_model(model)
    return model


def constants_as_nodes() -> onnx.ModelProto:
    model = network("c")
    for tensor in list(model.graph.initializer):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    return model


def with_more(change: Callable[[Graph, str], str]) -> onnx.ModelProto:
    return network("m", end=lambda g, x: g.node("Relu", change(g, x)))


def dead_node(graph: Graph, x: str) -> str:
    graph.node("Sigmoid", graph.conv(x))
    return x


def described() -> onnx.ModelProto:
    model = network("d")
    model.producer_name, model.doc_string = "somebody", "a text"
    helper.set_model_props(model, {"key": "value"})
    model.graph.value_info.append(helper.make_tensor_value_info("d9", TensorProto.FLOAT, SIZE))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    return model


SAME = {
    "renamed, other weights": lambda: network("other", seed=5),
    "reordered": reordered,
    "constants as nodes": constants_as_nodes,
    "defaults written out": lambda: network(
        strides=[1, 1], dilations=[1, 1], group=1, auto_pad="NOTSET", kernel_shape=[3, 3]
    ),
    "summands swapped": lambda: network("s", swap=True),
    "an identity": lambda: with_more(lambda g, x: g.node("Identity", x)),
    "dropout": lambda: with_more(lambda g, x: g.node("Dropout", x)),
    "a dead node": lambda: with_more(dead_node),
    "descriptions": described,
}

DIFFERENT = {
    "stride": lambda: network(strides=[1, 2]),
    "dilation": lambda: network(dilations=[2, 2]),
    "padding": lambda: network(pads=[1, 1, 1, 0]),
    "no padding": lambda: network(pads=[0, 0, 0, 0]),
    "groups": lambda: network(group=2),
    "kernel": lambda: network(kernel=5),
    "channels": lambda: network(channels=1),
    "no bias": lambda: network(bias=False),
    "input size": lambda: network(shape=(1, 4, 8, 9)),
    "batch": lambda: network(shape=(2, 4, 8, 8)),
    "free batch": lambda: network(shape=("N", 4, 8, 8)),
    "another operator": lambda: network(end=lambda g, x: g.node("Sigmoid", x)),
    "one more": lambda: network(end=lambda g, x: g.node("Relu", g.node("Relu", x))),
    "none": lambda: network(end=lambda g, x: x),
    "a skip": lambda: network(end=lambda g, x: g.node("Relu", g.node("Add", x, "ax"))),
    "another domain": lambda: network(end=lambda g, x: g.node("Relu", x, domain="of.mine")),
}


@pytest.mark.parametrize("kind", SAME)
def test_what_does_not_matter(kind: str) -> None:
    assert structure_digest(SAME[kind]()) == REFERENCE


def test_what_matters() -> None:
    found = {kind: structure_digest(make()) for kind, make in DIFFERENT.items()}
    # From the reference, and from each other.
    assert len({REFERENCE, *found.values()}) == len(found) + 1


def test_a_free_size_is_free_however_it_is_called() -> None:
    first, second = (structure_digest(network(shape=(name, 4, 8, 8))) for name in ("N", "batch"))
    assert first == second


def digests(*builders: Callable[[Graph], str]) -> list[str]:
    found = []
    for build in builders:
        graph = Graph()
        found.append(structure_digest(graph.model(build(graph))))
    return found


def test_wiring_beyond_what_a_tree_tells() -> None:
    def twice(graph: Graph) -> str:
        y = graph.conv("ax")
        return graph.node("Add", y, y)

    def two(graph: Graph) -> str:
        return graph.node("Add", graph.conv("ax"), graph.conv("ax"))

    def two_of_one_weight(graph: Graph) -> str:
        weight = graph.weight(4, 4, 3, 3)
        return graph.node("Add", *(graph.node("Conv", "ax", weight, pads=[1] * 4) for _ in range(2)))

    def two_without_bias(graph: Graph) -> str:
        return graph.node("Add", graph.conv("ax", bias=False), graph.conv("ax", bias=False))

    assert len(set(digests(twice, two, two_of_one_weight, two_without_bias))) == 4

    def of_the(which: int) -> Callable[[Graph], str]:
        def build(graph: Graph) -> str:
            paths = [graph.conv("ax"), graph.conv("ax")]
            return graph.node("Concat", graph.node("Relu", paths[0]), paths[1], graph.node("Sigmoid", paths[which]))

        return build

    # As trees, and line by line, the two are alike.
    assert len(set(digests(of_the(0), of_the(1)))) == 2


def test_the_order_of_what_is_not_commutative() -> None:
    def of(kind: str, swap: bool, **attributes: object) -> Callable[[Graph], str]:
        def build(graph: Graph) -> str:
            parts = [graph.conv("ax"), graph.node("Relu", "ax")]
            return graph.node(kind, *(parts[::-1] if swap else parts), **attributes)

        return build

    first, swapped = digests(of("Sub", False), of("Sub", True))
    assert first != swapped
    first, swapped = digests(of("Concat", False, axis=1), of("Concat", True, axis=1))
    assert first != swapped
    first, swapped = digests(of("Mul", False), of("Mul", True))
    assert first == swapped


def test_constants_that_are_no_weights_count() -> None:
    def sliced(start: int) -> Callable[[Graph], str]:
        return lambda g: g.node("Slice", "ax", g.constant([start]), g.constant([8]), g.constant([2]))

    def clipped(high: float) -> Callable[[Graph], str]:
        return lambda g: g.node("Clip", "ax", "", g.constant(np.float32(high)))

    def resized(scale: float) -> Callable[[Graph], str]:
        return lambda g: g.node("Resize", "ax", "", g.constant(np.float32([1, 1, scale, scale])), mode="nearest")

    def scaled(factor: float, shape: tuple[int, ...]) -> Callable[[Graph], str]:
        return lambda g: g.node("Mul", "ax", g.constant(np.full(shape, factor, np.float32)))

    for first, second in (
        (sliced(0), sliced(1)),
        (clipped(6), clipped(7)),
        (resized(2), resized(3)),
        (scaled(2, ()), scaled(3, ())),
        (scaled(2, (4, 1, 1)), scaled(2, (1, 4, 1))),
    ):
        assert len(set(digests(first, second))) == 2
    assert len(set(digests(scaled(2, (4, 1, 1)), scaled(3, (4, 1, 1))))) == 1
    # A missing lower bound differs from a missing upper bound.
    low = digests(lambda g: g.node("Clip", "ax", g.constant(np.float32(6))))
    assert low != digests(clipped(6))


def test_calibration_is_a_weight() -> None:
    def quantized(scale: float, zero: int) -> Callable[[Graph], str]:
        return lambda g: g.node("QuantizeLinear", "ax", g.constant(np.float32(scale)), g.constant(np.int8(zero)))

    assert len(set(digests(quantized(0.1, 0), quantized(0.2, 3)))) == 1


def test_types_count() -> None:
    single, half = Graph(), Graph()
    weights = [graph.weight(4, 4, 1, 1, dtype=dtype) for graph, dtype in ((single, np.float32), (half, np.float16))]
    one = single.model(single.node("Conv", "ax", weights[0]))
    other = half.model(half.node("Conv", "ax", weights[1]), kind=TensorProto.FLOAT16)
    assert structure_digest(one) != structure_digest(other)
    mixed = half.model(half.nodes[0].output[0])
    assert structure_digest(mixed) not in (structure_digest(one), structure_digest(other))


def test_versions_do_not_count_and_the_order_of_outputs_does() -> None:
    graph = Graph()
    first, second = graph.conv("ax"), graph.node("Relu", "ax")
    assert structure_digest(graph.model(first, opset=13)) == structure_digest(graph.model(first, opset=17))
    assert structure_digest(graph.model(first, second)) != structure_digest(graph.model(second, first))
    assert structure_digest(graph.model(first, second)) != structure_digest(graph.model(first))


def test_outputs_of_one_node_differ() -> None:
    def part(place: int, *behind: str) -> str:
        graph = Graph()
        graph.nodes.append(helper.make_node("Split", ["ax"], ["a_0", "a_1"], axis=1))
        name = f"a_{place}"
        for kind in behind:
            name = graph.node(kind, name)
        return structure_digest(graph.model(name))

    assert len({part(0), part(1), part(0, "Relu"), part(1, "Relu")}) == 4


def test_a_long_row_of_nodes() -> None:
    def row(length: int) -> str:
        graph, x = Graph(), "ax"
        for _ in range(length):
            x = graph.node("Add", x, x)
        return structure_digest(graph.model(x))

    # Neither the stack depth nor the 2^length paths are a limit.
    assert row(3000) != row(3001)


def test_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    content = network().SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert structure_digest(content) == structure_digest(path) == structure_digest(str(path)) == REFERENCE


def test_weights_in_another_file_are_not_read(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").unlink()
    assert structure_digest(tmp_path / "m.onnx") == REFERENCE
    graph = Graph()
    cut = graph.node("Slice", "ax", graph.constant([0]), graph.constant([4]), graph.constant([2]))
    onnx.save(graph.model(cut), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    with pytest.raises(
        ModelError,
        match=r"a1: a constant that defines the structure is stored in another file \(save the model in one file\)",
    ):
        structure_digest(tmp_path / "m.onnx")


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.onnx"):
        structure_digest(tmp_path / "no.onnx")
    for content in (b"", b"not a model at all", b"\x00" * 40):
        with pytest.raises(ModelError, match="not an ONNX model"):
            structure_digest(content)
    model = network()
    model.graph.node.pop(0)
    with pytest.raises(ModelError, match="which no earlier node computes"):
        structure_digest(model)
    model = network()
    model.graph.output[0].name = "gone"
    with pytest.raises(ModelError, match="gone: no node computes this output"):
        structure_digest(model)
