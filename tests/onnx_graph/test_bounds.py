"""Small files that describe more data than any computer can hold."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.cli.program import main
from irepdeploy.errors import ModelError, RunError
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.shapes import inferred_graph
from support.campaign import campaign, cases
from support.endless_models import absurd_models, nested_functions
from support.graph_writer import onnx_model

SIZES = [(1 << 63) - 1, 1 << 40, 1 << 31, 0, -5]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that hangs."""

    def late(*args: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("depth", [21, 30, 50])
def test_functions_that_grow_exponentially(depth: int) -> None:
    with pytest.raises(ModelError, match=f"expected at most 1,048,576 nodes, got {2**depth:,} with"):
        open_model(nested_functions(depth).SerializeToString())


def test_functions_of_ordinary_size() -> None:
    model = nested_functions(10)
    assert len(open_model(model.SerializeToString()).functions) == 10
    assert open_model(model) is model


def test_functions_that_call_themselves() -> None:
    with pytest.raises(ModelError, match="its function 'f0' calls itself"):
        open_model(nested_functions(3, closed=True))
    with pytest.raises(ModelError, match="its functions are nested more than 50 deep"):
        open_model(nested_functions(60, 1))


def test_a_function_that_calls_itself_in_a_branch() -> None:
    model = nested_functions(1)
    kind = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="own")], "b", [], [kind])
    model.functions[0].node[0].CopyFrom(helper.make_node("If", ["x"], ["t"], then_branch=branch, else_branch=branch))
    with pytest.raises(ModelError, match="its function 'f0' calls itself"):
        open_model(model)


def test_subgraphs_nested_too_deep() -> None:
    # GraphProto.node (1), NodeProto.attribute (5), AttributeProto.g (6), each of the length of what it holds.
    content = b""
    for level in range(3000):
        size, number = len(content), b""
        while size > 127:
            number, size = number + bytes([size & 127 | 128]), size >> 7
        content = bytes([(6, 5, 1)[level % 3] << 3 | 2]) + number + bytes([size]) + content
    whole = onnx.ModelProto(ir_version=8).SerializeToString()
    number = bytes([len(content) & 127 | 128, len(content) >> 7 & 127 | 128, len(content) >> 14])
    with pytest.raises(ModelError, match="not an ONNX model, or a damaged one"):
        open_model(whole + bytes([7 << 3 | 2]) + number + content)


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "BOOL", "INT8", "INT32", "INT64", "INT4"])
def test_constants_that_hold_what_they_say(kind: str) -> None:
    for raw in (False, True):
        data: Any = bytes({"INT4": 3, "FLOAT": 24}.get(kind, 0)) if raw else [1] * 6
        if raw and not data:
            continue
        tensor = helper.make_tensor("w", getattr(TensorProto, kind), [2, 3], data, raw=raw)
        model = onnx_model([helper.make_node("Shape", ["w"], ["y"])], {}, {"y": None})
        model.graph.initializer.append(tensor)
        open_model(model.SerializeToString())
        model.graph.initializer[0].dims[:] = [2, 3, 40]
        with pytest.raises(ModelError, match="damaged: the constant 'w' does not hold 2x3x40 numbers"):
            open_model(model.SerializeToString())


def test_constants_in_nodes_and_in_other_files(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value=TensorProto(name="c", data_type=1, dims=[1 << 31]))
    with pytest.raises(ModelError, match="the constant 'c' does not hold 2147483648 numbers"):
        open_model(onnx_model([node], {}, {"y": None}).SerializeToString())
    w = np.ones((3, 3, 3, 3), np.float32)
    model = onnx_model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": None}, {"w": w})
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    open_model(tmp_path / "a.onnx")
    changed = open_model(tmp_path / "a.onnx", weights=False)
    changed.graph.initializer[0].dims[0] = 1 << 31
    (tmp_path / "a.onnx").write_bytes(changed.SerializeToString())
    with pytest.raises(ModelError, match=r"the constant 'w' does not hold 2147483648x3x3x3 numbers"):
        open_model(tmp_path / "a.onnx")


@pytest.mark.parametrize("length", [None, 1 << 40])
def test_weights_in_a_file_that_is_larger_than_they_are(length: int | None, tmp_path: Path) -> None:
    """The file is not read: a sparse file of a terabyte is created instantly."""
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(1 << 40)
    model = onnx_model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": None}, {})
    weights = model.graph.initializer.add(name="w", data_type=1, dims=[3, 3, 3, 3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="w.bin")
    if length is not None:
        weights.external_data.add(key="length", value=str(length))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"1.1 TB are stored for the constant 'w'"):
        open_model(tmp_path / "a.onnx")
    weights.dims[0] = (1 << 40) // 108
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((RunError, ModelError), match=r"1.1 TB"):
        open_model(tmp_path / "a.onnx")


def test_weights_in_a_file_of_an_impossible_name(tmp_path: Path) -> None:
    model = onnx_model([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 8, 8)}, {"y": None}, {})
    weights = model.graph.initializer.add(name="w", data_type=1, dims=[3, 3, 3, 3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="w" * 5000)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="its external data cannot be read"):
        open_model(tmp_path / "a.onnx")


def test_absurd_sizes_end_in_an_error_or_a_model(tmp_path: Path) -> None:
    with campaign("ONNX models of absurd sizes") as counts:
        for size in SIZES[: cases(day=1, nightly=len(SIZES))]:
            for name, model in absurd_models(size):
                try:
                    collapse(model.SerializeToString())
                except ModelError:
                    pass
                except Exception as error:
                    counts.fail("collapse", f"{name}: {error!r}")
                    continue
                counts.hold("collapse")


@pytest.mark.parametrize("name", ["computed", "doubled", "nested"])
def test_shape_inference_writes_out_no_long_values(name: str) -> None:
    size = 1 << 31
    node, seven = helper.make_node, {"to": TensorProto.INT64}
    product = [node("Mul", ["a", "b"], ["c"]), node("ConstantOfShape", ["c"], ["long"])]
    doubled = [node("Concat", [f"d{place}", f"d{place}"], [f"d{place + 1}"], axis=0) for place in range(30)]
    graph = helper.make_graph(
        [*product, node("Cast", ["long"], ["z"], **seven)], "b", [], [helper.make_tensor_value_info("z", 7, None)]
    )
    nodes, known = {
        "computed": ([*product, node("Cast", ["long"], ["y"], **seven)], {"long": [size]}),
        "doubled": ([*doubled, node("Cast", ["d30"], ["y"], **seven)], {"d30": [size]}),
        "nested": ([node("If", ["if"], ["y"], then_branch=graph, else_branch=graph)], {}),
    }[name]
    constants = {"a": [1 << 16], "b": [1 << 15], "d0": [1, 2], "if": True}
    arrays = {key: np.array(value) for key, value in constants.items()}
    model = onnx_model(nodes, {"x": (1, 3, 8, 8)}, {"y": None}, arrays, kinds={"y": TensorProto.INT64}, opset=18)
    inferred = inferred_graph(model, data_prop=True)
    found = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.input, *inferred.value_info)}
    for tensor, sizes in known.items():
        assert [dim.dim_value for dim in found[tensor]] == sizes


@pytest.mark.parametrize("place", ["graph", "branch", "function", "branch of a function"])
def test_a_split_into_more_outputs_than_memory_holds(place: str) -> None:
    model, kind = nested_functions(1), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    split = helper.make_node("Split", ["x"], ["y"], num_outputs=1 << 31)
    if place.startswith("branch"):
        branch = helper.make_graph([split], "b", [], [kind])
        split = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    (model.functions[0] if "function" in place else model.graph).node[0].CopyFrom(split)
    with pytest.raises(ModelError, match=r"damaged: num_outputs of 'Split' is \[2147483648\]"):
        open_model(model.SerializeToString())


def test_commands_on_sizes_of_0(tmp_path: Path, capsys: Any) -> None:
    models, path = dict(absurd_models(0)), str(tmp_path / "a.onnx")
    for name, line, code in (("height 0", ["verify", path], 2), ("0 bytes for a constant of 0", ["inspect"], 0)):
        Path(path).write_bytes(models[name].SerializeToString())
        assert main([*line, path]) == code, capsys.readouterr().err


@pytest.mark.slow
def test_commands_on_absurd_sizes(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    # The export goes on without a simplifier, which would start a process in each.
    monkeypatch.setattr("irepdeploy.export.simplify.WORKER", ("false",))
    path = str(tmp_path / "a.onnx")
    with campaign("commands on ONNX models of absurd sizes") as counts:
        for size in SIZES:
            for name, model in absurd_models(size):
                Path(path).write_bytes(model.SerializeToString())
                for command in (["inspect"], ["export", "--timeout", "1", "--out", str(tmp_path / "out")], ["verify"]):
                    twice = ["--timeout", "1", path] if command == ["verify"] else []
                    code = main([command[0], path, *command[1:], *twice])
                    if code in (0, 1, 2, 4):
                        counts.hold(command[0])
                    else:
                        counts.fail(command[0], f"{name}: exit code {code}: {capsys.readouterr().err[-300:]}")
