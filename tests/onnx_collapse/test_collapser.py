"""The pass as a whole: what it must not touch, what it must keep, and what it refuses to read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_collapse import Collapse, collapse

RNG = np.random.default_rng(2)
W3, W1, BIAS = RNG.standard_normal((4, 4, 3, 3)), RNG.standard_normal((4, 4, 1, 1)), RNG.standard_normal(4)
SAME = {"pads": [1, 1, 1, 1]}
Difference = Callable[..., float]

# 3x3 + 1x1 + identity, as RepVGG's, behind "x"; "y" is their sum.
BLOCK = [
    ("Conv", ["x", "w", "bias"], ["a"], SAME),
    ("Conv", ["x", "w1"], ["b"]),
    ("Add", ["a", "b"], ["c"]),
    ("Add", ["c", "x"], ["y"]),
]
RELU = [("Relu", ["y"], ["z"])]
CONSTANTS = {"w": W3, "w1": W1, "bias": BIAS}
X = {"x": (1, 4, 6, 7)}


def kinds(found: Collapse) -> list[str]:
    return [node.op_type for node in found.model.graph.node]


@pytest.fixture
def block(model_of: Any) -> onnx.ModelProto:
    model: onnx.ModelProto = model_of(BLOCK + RELU, CONSTANTS, X, ["z"])
    return model


def test_a_block_becomes_one_convolution(block: onnx.ModelProto, largest_difference: Difference) -> None:
    found = collapse(block)
    assert found.changed and kinds(found) == ["Conv", "Relu"] and largest_difference(block, found.content) < 1e-6
    assert found.content == found.model.SerializeToString(deterministic=True)
    assert len(found.model.graph.initializer) == 2
    assert (found.operators_before["Conv"], found.operators_after["Conv"]) == (2, 1)
    (region,) = found.regions
    assert region.sources == ("x",) and region.results == ("y",)
    assert region.operators_in == {"Add": 2, "Conv": 2} and region.operators_out == {"Conv": 1}
    assert region.macs_before == 6 * 7 * 16 * 10 and region.macs_after == 6 * 7 * 16 * 9
    onnx.checker.check_model(found.model, full_check=True)


def test_the_model_given_is_not_changed(block: onnx.ModelProto) -> None:
    before = block.SerializeToString()
    collapse(block)
    assert block.SerializeToString() == before


def test_twice_is_once(block: onnx.ModelProto) -> None:
    once = collapse(block).content
    twice = collapse(once)
    assert not twice.changed and twice.content is once


def test_the_same_bytes_from_every_kind_of_input(block: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "block.onnx"
    path.write_bytes(block.SerializeToString())
    found = {collapse(item).content for item in (block, block.SerializeToString(), path, str(path))}
    assert len(found) == 1


def test_nothing_to_merge_gives_the_bytes_back(model_of: Any, tmp_path: Path) -> None:
    """Even bytes that serializing again would reorder."""
    model = model_of([("Conv", ["x", "w"], ["y"]), *RELU], CONSTANTS, X, ["z"])
    content = model.SerializeToString() + onnx.ModelProto(doc_string="again").SerializeToString()
    path = tmp_path / "plain.onnx"
    path.write_bytes(content)
    for model_given in (content, path):
        found = collapse(model_given)
        assert not found.changed and found.content == content and not found.regions
    assert collapse(model).model is model


def test_an_empty_graph(model_of: Any) -> None:
    model = model_of([], {}, X, ["x"])
    assert not collapse(model).changed


def test_two_outputs_used_elsewhere_stay(collapsed: Any) -> None:
    """The 1x1 is read by a sigmoid, the first sum is an output: both are still there, by name and number."""
    nodes = [*BLOCK, *RELU, ("Sigmoid", ["b"], ["s"])]
    found = collapsed(nodes, CONSTANTS, X, ["z", "s", "c"], tolerance=1e-6)
    assert [value.name for value in found.model.graph.output] == ["z", "s", "c"]
    assert found.operators_after["Conv"] == 2


def test_dead_operators_pin_nothing(collapsed: Any) -> None:
    found = collapsed([*BLOCK, *RELU, ("Sigmoid", ["b"], ["unread"])], CONSTANTS, X, ["z"], tolerance=1e-6)
    assert kinds(found) == ["Conv", "Relu"]


def test_weights_computed_at_run_time(model_of: Any) -> None:
    nodes = [("Mul", ["w", "t"], ["v"]), ("Conv", ["x", "v"], ["a"], SAME), *BLOCK[1:], *RELU]
    model = model_of(nodes, CONSTANTS, {**X, "t": (1, 1, 1, 1)}, ["z"])
    found = collapse(model)
    # The 1x1 absorbs the identity; the other convolution is a barrier.
    assert sorted(kinds(found)) == ["Add", "Conv", "Conv", "Mul", "Relu"]
    assert "computed at run time" in found.regions[0].reason


def test_weights_that_are_inputs_are_not_constant(block: onnx.ModelProto, model_of: Any) -> None:
    """Since IR version 4 an initializer that is an input is a default; before, every one is listed so."""
    default = model_of(BLOCK + RELU, CONSTANTS, X, ["z"], listed=True)
    assert not collapse(default).changed
    old = model_of(BLOCK + RELU, CONSTANTS, X, ["z"], listed=True, ir_version=3, opset=8)
    found = collapse(old)
    assert kinds(found) == ["Conv", "Relu"]
    listed = {value.name for value in found.model.graph.input}
    assert listed == {"x"} | {item.name for item in found.model.graph.initializer}
    onnx.checker.check_model(found.model)


def test_weights_made_of_constants(collapsed: Any) -> None:
    """alpha as Sigmoid(Gather(alphas)), a kernel reshaped and transposed: as supernets are exported."""
    nodes = [
        ("Gather", ["alphas", "one"], ["alpha"]),
        ("Sigmoid", ["alpha"], ["share"]),
        ("Reshape", ["flat", "shape"], ["w"]),
        ("Transpose", ["wt"], ["w1"], {"perm": [1, 0, 2, 3]}),
        *BLOCK[:2],
        ("Mul", ["share", "b"], ["bs"]),
        ("Add", ["a", "bs"], ["y"]),
        *RELU,
    ]
    constants = {
        "alphas": RNG.standard_normal(3), "one": np.int64(1), "flat": W3.reshape(-1), "shape": [4, 4, 3, -1],
        "wt": W1, "bias": BIAS,
    }  # fmt: skip
    found = collapsed(nodes, constants, X, ["z"], tolerance=1e-6)
    assert kinds(found) == ["Conv", "Relu"]
    # In float64 from the file's numbers, not from a sigmoid in float32.
    assert found.regions[0].error_interior is not None and found.regions[0].error_interior < 1e-14


def test_quantized_weights_stay_quantized(model_of: Any) -> None:
    nodes = [("DequantizeLinear", ["wq", "scale"], ["w"]), *BLOCK, *RELU]
    constants = {
        "w1": W1,
        "bias": BIAS,
        "wq": RNG.integers(-9, 9, (4, 4, 3, 3)).astype(np.int8),
        "scale": np.asarray(0.1),
    }
    found = collapse(model_of(nodes, constants, X, ["z"]))
    assert found.operators_after["DequantizeLinear"] == 1


def test_bodies_keep_what_they_read(collapsed: Any) -> None:
    """An If whose branches read the 1x1's output and a weight of the graph around it."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None] * 4)
    branches = {
        name: helper.make_graph([helper.make_node(kind, inputs, ["inner"])], name, [], [value])
        for name, kind, inputs in (("then_branch", "Relu", ["b"]), ("else_branch", "Conv", ["b", "w1"]))
    }
    nodes = [
        *BLOCK,
        ("ReduceMax", ["x"], ["m"], {"keepdims": 0}),
        ("Greater", ["m", "limit"], ["test"]),
        helper.make_node("If", ["test"], ["chosen"], "choice", **branches),
        ("Add", ["y", "chosen"], ["s"]),
        ("Relu", ["s"], ["z"]),
    ]
    for limit in (-100.0, 100.0):
        found = collapsed(nodes, {**CONSTANTS, "limit": np.asarray(limit)}, X, ["z"], tolerance=1e-6)
        assert found.operators_after["If"] == 1 and "w1" in {item.name for item in found.model.graph.initializer}


def test_what_only_a_body_reads(collapsed: Any) -> None:
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None] * 4)
    body = {
        name: helper.make_graph([helper.make_node("Relu", [read], ["inner"])], name, [], [value])
        for name, read in (("then_branch", "s"), ("else_branch", "x"))
    }
    nodes = [*BLOCK, *RELU, ("Sigmoid", ["x"], ["s"]), helper.make_node("If", ["test"], ["o"], "choice", **body)]
    found = collapsed(nodes, {**CONSTANTS, "test": np.asarray(True)}, X, ["z", "o"], tolerance=1e-6)
    assert found.operators_after["Sigmoid"] == 1


def test_copies_of_copies(model_of: Any, largest_difference: Difference) -> None:
    nodes = [
        ("Identity", ["x"], ["a"]),
        ("Dropout", ["a"], ["b"]),
        ("Relu", ["b"], ["z"]),
        ("Identity", ["b"], ["c"]),
        ("Dropout", ["c"], ["d"]),
        ("Sigmoid", ["d"], ["y"]),
    ]
    model = model_of(nodes, {}, X, ["y", "z"])
    found = collapse(model)
    assert found.operators_after == {"Relu": 1, "Sigmoid": 1} and largest_difference(model, found.content) == 0


def test_an_alias_that_a_body_reads(collapsed: Any) -> None:
    """Identity in a graph whose If reads its result: the name stays."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None] * 4)
    body = {
        name: helper.make_graph([helper.make_node(kind, ["i"], ["inner"])], name, [], [value])
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        ("Identity", ["x"], ["h"]),
        ("Dropout", ["h"], ["i"]),
        helper.make_node("If", ["test"], ["y"], "choice", **body),
        *RELU,
    ]
    collapsed(nodes, {"test": np.asarray(True)}, X, ["z"], tolerance=1e-6)


def test_identities_that_are_outputs(model_of: Any, largest_difference: Difference) -> None:
    model = model_of([("Identity", ["x"], ["a"]), ("Dropout", ["a"], ["y"]), ("Relu", ["a"], ["z"])], {}, X, ["y", "z"])
    found = collapse(model)
    assert [value.name for value in found.model.graph.output] == ["y", "z"]
    assert largest_difference(model, found.content) == 0


def test_operators_of_others(model_of: Any) -> None:
    """Custom domains and local functions are barriers and stay unchanged."""
    nodes = [
        *BLOCK[:2],
        helper.make_node("Add", ["a", "b"], ["c"], "theirs", domain="their.own"),
        helper.make_node("Twice", ["c"], ["d"], "twice", domain="local"),
        ("BatchNormalization", ["d", "bias", "bias", "bias", "v"], ["e"]),
        ("Mul", ["e", "v4"], ["y"]),
        *RELU,
    ]
    model = model_of(nodes, {**CONSTANTS, "v": BIAS**2, "v4": BIAS.reshape(4, 1, 1)}, X, ["z"])
    model.opset_import.add(domain="their.own", version=1)
    model.opset_import.add(domain="local", version=1)
    inner = helper.make_node("Add", ["p", "p"], ["q"])
    model.functions.append(helper.make_function("local", "Twice", ["p"], ["q"], [inner], [helper.make_opsetid("", 17)]))
    found = collapse(model)
    assert [node.domain for node in found.model.graph.node][2:4] == ["their.own", "local"]
    assert found.model.functions == model.functions


def test_sparse_weights(model_of: Any) -> None:
    model = model_of(BLOCK + RELU, {"w": W3, "bias": BIAS}, X, ["z"])
    values = numpy_helper.from_array(np.asarray([1.0, 2.0], np.float32), "w1")
    indices = numpy_helper.from_array(np.asarray([0, 5], np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4, 1, 1]))
    found = collapse(model)
    assert len(found.model.graph.sparse_initializer) == 1
    assert found.operators_after["Conv"] == 2


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats(kind: int, model_of: Any, largest_difference: Difference) -> None:
    model = model_of(BLOCK + RELU, CONSTANTS, X, ["z"], kind=kind)
    found = collapse(model)
    assert kinds(found) == ["Conv", "Relu"]
    assert {item.data_type for item in found.model.graph.initializer} == {kind}
    assert found.regions[0].error_interior is not None and found.regions[0].error_interior < 1e-14
    if kind == TensorProto.FLOAT16:
        assert largest_difference(model, found.content) < 2e-3


def test_merged_weights_beyond_float16(model_of: Any) -> None:
    """60000 + 60000 is infinite in float16: left alone, with the reason."""
    constants = {"w": np.full((4, 4, 3, 3), 6e4), "w1": np.full((4, 4, 1, 1), 6e4), "bias": BIAS}
    found = collapse(model_of(BLOCK + RELU, constants, X, ["z"], kind=TensorProto.FLOAT16))
    assert not found.changed and "beyond the range of float16" in found.regions[0].reason


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_weights_that_are_not_finite(damage: float, model_of: Any) -> None:
    weights = W3.copy()
    weights[1, 2, 0, 1] = damage
    assert not collapse(model_of(BLOCK + RELU, {**CONSTANTS, "w": weights}, X, ["z"])).changed


def test_a_long_linear_network(collapsed: Any) -> None:
    """160 consecutive operators: more than are planned together, but still one convolution."""
    nodes: list[Any] = []
    last = "x"
    for place in range(80):
        nodes.append(("Conv", [last, "w1"], [f"c{place}"]))
        nodes.append(("Mul", [f"c{place}", "s"], [f"m{place}"]))
        last = f"m{place}"
    nodes.append(("Relu", [last], ["z"]))
    orthogonal = np.linalg.qr(RNG.standard_normal((4, 4)))[0].reshape(4, 4, 1, 1)
    found = collapsed(nodes, {"w1": orthogonal, "s": np.asarray(-1.0)}, X, ["z"], tolerance=1e-4)
    assert kinds(found) == ["Conv", "Relu"]


def test_what_a_model_says_of_itself_is_kept(block: onnx.ModelProto) -> None:
    block.metadata_props.add(key="author", value="somebody")
    block.producer_name, block.doc_string = "their exporter", "a block"
    block.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 4, 6, 7]))
    block.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 7]))
    found = collapse(block).model
    assert found.metadata_props == block.metadata_props and found.producer_name == "their exporter"
    assert [value.name for value in found.graph.value_info] == ["y"]


def test_names_that_are_taken(model_of: Any, largest_difference: Difference) -> None:
    nodes = [*BLOCK, ("Add", ["y", "y.weight"], ["p"]), ("Mul", ["p", "y.bias"], ["q"]), ("Relu", ["q"], ["z"])]
    model = model_of([*nodes[:4], ("Relu", ["y"], ["r"]), ("Add", ["r", "y.weight"], ["z"])],
                     {**CONSTANTS, "y.weight": np.asarray(1.0), "y.bias": np.asarray(2.0)}, X, ["z"])  # fmt: skip
    found = collapse(model)
    onnx.checker.check_model(found.model, full_check=True)
    assert largest_difference(model, found.content) < 1e-6


# -- what it refuses to read


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.onnx"):
        collapse(tmp_path / "missing.onnx")


@pytest.mark.parametrize("content", [b"\xff\xfe no protobuf", b"", b"\x08\x08"])
def test_no_onnx_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.onnx: not an ONNX model"):
        collapse(path)
    assert path.read_bytes() == content


def test_a_file_cut_short(block: onnx.ModelProto) -> None:
    content = block.SerializeToString()
    for share in range(5, 100, 5):
        with pytest.raises(ModelError):
            collapse(content[: len(content) * share // 100])


def test_a_graph_that_is_none(model_of: Any) -> None:
    cases = {
        "reads 'nowhere'": [("Relu", ["nowhere"], ["z"])],
        "reads 'y'": [*RELU, ("Relu", ["z"], ["y"])],
        "'z' is computed twice": [("Relu", ["x"], ["z"]), ("Relu", ["x"], ["z"])],
        "no node computes the output 'z'": [("Relu", ["x"], ["y"])],
    }
    for text, nodes in cases.items():
        with pytest.raises(ModelError, match=text):
            collapse(model_of(nodes, {}, X, ["z"]))


def test_weights_that_do_not_hold_what_they_say(block: onnx.ModelProto) -> None:
    block.graph.initializer[0].raw_data = b"123"
    with pytest.raises(ModelError, match="'w' cannot be decoded"):
        collapse(block)


def test_weights_in_another_file(block: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "outside.onnx"
    inside = collapse(block)
    onnx.save(block, path, save_as_external_data=True, size_threshold=0, location="outside.data")
    assert collapse(path).content == inside.content
    (tmp_path / "outside.data").unlink()
    with pytest.raises(ModelError, match=r"outside\.onnx: its external data cannot be read"):
        collapse(path)


def test_an_opset_that_is_too_old(model_of: Any) -> None:
    with pytest.raises(ModelError, match="opset 6 is older than 7"):
        collapse(model_of(RELU, {}, {"y": (1, 4, 6, 7)}, ["z"], opset=6))


def test_an_unknown_border(block: onnx.ModelProto) -> None:
    with pytest.raises(InputError, match="refuse, map"):
        collapse(block, border="guess")  # type: ignore[arg-type]


@given(st.randoms(use_true_random=False))
def test_a_damaged_model_never_crashes(random: Any) -> None:
    """Randomly changed attributes, shapes and inputs: left alone, or reported as damaged."""
    model = _everything()
    for _ in range(random.randint(1, 3)):
        node = random.choice(model.graph.node)
        kind = random.randrange(4)
        if kind == 0 and node.attribute:
            item = random.choice(node.attribute)
            if item.ints:
                item.ints[random.randrange(len(item.ints))] = random.choice([-3, -1, 0, 1, 2, 5, 1 << 40])
            else:
                node.attribute.remove(item)
        elif kind == 1 and len(node.input) > 1:
            node.input[random.randrange(len(node.input))] = random.choice(["", "x", "w", "bias", "pads", "cut"])
        elif kind == 2:
            tensor = random.choice(model.graph.initializer)
            sizes = [random.choice([0, 1, 2, 4]) for _ in range(random.randrange(5))]
            kinds = [np.float32, np.int64, np.float16]
            array = np.ones(sizes, random.choice(kinds))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        else:
            node.op_type = random.choice(["Conv", "Add", "Slice", "Pad", "Split", "Concat", "Transpose", "Mul", "Gemm"])
    with contextlib.suppress(ModelError):
        collapse(model)


def _everything() -> onnx.ModelProto:
    """Operators of many kinds, one after the other."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "bias"], ["a"], pads=[1, 1, 1, 1], strides=[1, 1], group=1),
        helper.make_node("BatchNormalization", ["a", "bias", "bias", "bias", "v"], ["b"]),
        helper.make_node("Pad", ["b", "pads"], ["c"]),
        helper.make_node("ScatterND", ["c", "at", "put"], ["d"]),
        helper.make_node("AveragePool", ["d"], ["e"], kernel_shape=[3, 3], count_include_pad=1),
        helper.make_node("Split", ["e", "parts"], ["f", "g"], axis=1),
        helper.make_node("Concat", ["g", "f"], ["h"], axis=1),
        helper.make_node("Slice", ["h", "cut", "end", "axes"], ["i"]),
        helper.make_node("Mul", ["i", "factor"], ["j"]),
        helper.make_node("Add", ["j", "bias4"], ["z"]),
    ]
    constants = {
        "w": W3.astype(np.float32), "bias": BIAS.astype(np.float32), "v": (BIAS**2).astype(np.float32),
        "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1]), "at": np.zeros((1, 4), np.int64), "put": np.ones(1, np.float32),
        "parts": np.asarray([1, 3]), "cut": np.asarray([1]), "end": np.asarray([-1]), "axes": np.asarray([2]),
        "factor": np.ones((4, 1, 1), np.float32), "bias4": BIAS.reshape(1, 4, 1, 1).astype(np.float32),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 7])]
    made = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "everything", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("given", [None, 3, bytearray(b"x"), [], onnx.GraphProto()])
def test_not_a_model_at_all(given: Any) -> None:
    with pytest.raises(InputError, match="expected an ONNX model, got a"):
        collapse(given)


def test_a_model_without_an_opset(block: onnx.ModelProto) -> None:
    del block.opset_import[:]
    with pytest.raises(ModelError, match="no opset"):
        collapse(block)


def test_a_gelu_keeps_its_five_operators(model_of: Any) -> None:
    gelu = [
        ("Div", ["y", "root"], ["g1"]), ("Erf", ["g1"], ["g2"]), ("Add", ["g2", "one"], ["g3"]),
        ("Mul", ["y", "g3"], ["g4"]), ("Mul", ["g4", "half"], ["g5"]), ("Conv", ["g5", "w1"], ["z"]),
    ]  # fmt: skip
    constants = {**CONSTANTS, "root": np.sqrt(2.0), "one": 1.0, "half": 0.5}
    found = collapse(model_of(BLOCK + gelu, constants, X, ["z"]))
    assert kinds(found) == ["Conv", "Div", "Erf", "Add", "Mul", "Mul", "Conv"]
    other = collapse(model_of(BLOCK + gelu, {**constants, "half": 0.25}, X, ["z"]))
    assert kinds(other) == ["Conv", "Div", "Erf", "Add", "Mul", "Conv"]


def test_kernels_that_the_graph_computes(collapsed: Any) -> None:
    """Folded although no two operators merge: a product of two kernels, and one that is standardised."""
    nodes = [
        ("Transpose", ["u"], ["ut"], {"perm": [1, 0, 2, 3]}),
        ("Conv", ["v", "ut"], ["k"]),
        ("Conv", ["x", "k"], ["a"], {"pads": [1] * 4}),
        ("Relu", ["a"], ["b"]),
        ("ReduceMean", ["w"], ["m"], {"axes": [1, 2, 3]}),
        ("Sub", ["w", "m"], ["d"]),
        ("ReduceL2", ["d"], ["n"], {"axes": [1, 2, 3]}),
        ("Div", ["d", "n"], ["s"]),
        ("Conv", ["b", "s"], ["c"]),
        ("Relu", ["c"], ["z"]),
    ]
    rng = np.random.default_rng(2)
    sizes = {"u": (8, 3, 1, 1), "v": (6, 8, 3, 3), "w": (4, 6, 3, 3)}
    constants = {name: rng.standard_normal(size) for name, size in sizes.items()}
    found = collapsed(nodes, constants, {"x": (1, 3, 7, 6)}, ["z"], tolerance=1e-6)
    assert kinds(found) == ["Conv", "Relu", "Conv", "Relu"] and found.changed
    assert found.folded == 6 and not found.regions
    assert sorted(item.name for item in found.model.graph.initializer) == ["k", "s"]
    assert not collapse(found.content).changed


@pytest.mark.parametrize("kind", ["Constant", "Identity", "Cast"])
def test_nothing_is_written_for_a_constant_that_is_only_named_or_stored_small(kind: str, collapsed: Any) -> None:
    weight = np.ones((4, 3, 1, 1), np.float32)
    nodes: dict[str, Any] = {
        "Constant": ("Constant", [], ["k"], {"value": numpy_helper.from_array(weight)}),
        "Identity": ("Identity", ["w"], ["k"]),
        "Cast": ("Cast", ["h"], ["k"], {"to": TensorProto.FLOAT}),
    }
    constants = {"Constant": {}, "Identity": {"w": weight}, "Cast": {"h": np.ones((4, 3, 1, 1), np.int8)}}
    found = collapsed(
        [nodes[kind], ("Conv", ["x", "k"], ["y"]), ("Relu", ["y"], ["z"])], constants[kind], {"x": (1, 3, 7, 6)}, ["z"]
    )
    assert not found.changed and found.folded == 0
