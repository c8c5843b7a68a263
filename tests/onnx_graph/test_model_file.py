"""Opening ONNX files: damaged ones, and ones with external weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_graph.model_file import model_content, open_model
from irepdeploy.onnx_graph.proto import graphs_of, nodes_of, tensors_of

WEIGHTS = np.arange(16, dtype=np.float32).reshape(4, 4)


@pytest.fixture
def model() -> onnx.ModelProto:
    """Weights in the main graph, in a Constant node, and in the branches of an If."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("input", "output", "inner")]
    nodes = [helper.make_node("MatMul", ["input", "inside"], ["inner"])]
    inside = numpy_helper.from_array(WEIGHTS, "inside")
    branches = {name: helper.make_graph(nodes, name, [], ends[2:], [inside]) for name in ("then_branch", "else_branch")}
    nodes = [
        helper.make_node("Constant", [], ["constant"], value=numpy_helper.from_array(WEIGHTS, "constant")),
        helper.make_node("If", ["flag"], ["branch"], **branches),
        helper.make_node("Sum", ["branch", "constant", "outside"], ["output"]),
    ]
    tensors = [numpy_helper.from_array(WEIGHTS, "outside"), numpy_helper.from_array(np.array(True), "flag")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:2], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def external(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    options = {"save_as_external_data": True, "size_threshold": 0, "convert_attribute": True}
    onnx.save(model, path, location="m.data", **options)
    assert (tmp_path / "m.data").stat().st_size >= 2 * WEIGHTS.nbytes
    return path


def test_subgraphs_are_walked(model: onnx.ModelProto) -> None:
    assert [graph.name for graph in graphs_of(model)] == ["g", "else_branch", "then_branch"]
    assert [node.op_type for node in nodes_of(model)] == ["Constant", "If", "Sum", "MatMul", "MatMul"]
    assert sorted(tensor.name for tensor in tensors_of(model)) == ["constant", "flag", "inside", "inside", "outside"]


def test_a_file_in_one_piece_is_returned_byte_for_byte(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    content = model.SerializeToString()
    path.write_bytes(content)
    assert model_content(path) == model_content(str(path)) == model_content(content) == content
    assert open_model(path) == open_model(content) == model
    assert open_model(model) is model


def test_external_data_is_read_into_the_model(model: onnx.ModelProto, external: Path) -> None:
    for opened in (open_model(external), open_model(model_content(external))):
        arrays = [numpy_helper.to_array(tensor) for tensor in tensors_of(opened) if tensor.name != "flag"]
        assert len(arrays) == 4 and all(np.array_equal(array, WEIGHTS) for array in arrays)


def test_external_data_that_is_missing(external: Path) -> None:
    content = external.read_bytes()
    external.with_name("m.data").unlink()
    for reader in (open_model, model_content):
        with pytest.raises(ModelError, match=r"m\.onnx: its external data cannot be read"):
            reader(external)
        for source in (content, onnx.load(external, load_external_data=False)):
            with pytest.raises(ModelError, match=r"stored in another file \(give the path"):
                reader(source)
    # Shapes and operators do not need them.
    assert open_model(external, weights=False).graph.node


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no graph"),
        (b"garbage" * 100, "or a damaged one"),
        (onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(), "it has no opset"),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    for reader in (open_model, model_content):
        with pytest.raises(ModelError, match=rf"m\.onnx: not an ONNX model.*{message}"):
            reader(tmp_path / "m.onnx")


def test_what_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such ONNX file"):
        open_model(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="expected an ONNX model, got a list"):
        open_model([])  # type: ignore[arg-type]
