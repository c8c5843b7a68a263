"""Nodes in any order are sorted with as few moves as possible."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.order import is_sorted, sort_nodes
from irepdeploy.onnx_graph.structure_digest import structure_digest
from support.graph_writer import onnx_model

NODES = [
    helper.make_node("Relu", ["x"], ["a"]),
    helper.make_node("Sigmoid", ["a"], ["b"]),
    helper.make_node("Tanh", ["a"], ["c"]),
    helper.make_node("Add", ["b", "c"], ["y"]),
]


def graph(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    return onnx_model(nodes, {"x": (1, 2)}, {"y": (1, 2)})


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 2, 3), (3, 0, 1, 2)])
def test_any_order_is_sorted(order: tuple[int, ...]) -> None:
    given = graph([NODES[index] for index in order])
    opened = open_model(given)
    onnx.checker.check_model(opened)
    # The model of the caller stays.
    assert kinds(given) == [NODES[index].op_type for index in order]
    assert kinds(open_model(given.SerializeToString())) == kinds(opened)
    assert structure_digest(given) == structure_digest(graph(NODES))


def test_nodes_in_order_stay_where_they_are() -> None:
    given = graph([NODES[0], NODES[2], NODES[1], NODES[3]])
    assert is_sorted(given) and not sort_nodes(given) and open_model(given) is given
    assert kinds(given) == ["Relu", "Tanh", "Sigmoid", "Add"]


def test_what_a_subgraph_reads_comes_before_its_node() -> None:
    branches = {
        name: helper.make_graph(
            [helper.make_node("Neg", ["inner"], [f"{name}.out"]), helper.make_node("Abs", ["a"], ["inner"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.out", onnx.TensorProto.FLOAT, (1, 2))],
        )
        for name in ("then_branch", "else_branch")
    }
    model = onnx_model(
        [helper.make_node("If", ["flag"], ["y"], **branches), helper.make_node("Relu", ["x"], ["a"])],
        {"x": (1, 2), "flag": ()},
        {"y": (1, 2)},
        kinds={"flag": onnx.TensorProto.BOOL},
    )
    assert sort_nodes(model) and kinds(model) == ["Relu", "If"] and is_sorted(model)
    assert [node.op_type for node in model.graph.node[1].attribute[0].g.node] == ["Abs", "Neg"]


@pytest.mark.parametrize("faulty", ["cycle", "twice"])
def test_what_no_order_helps_stays(faulty: str) -> None:
    last = {"cycle": ["c", "b", "d"], "twice": ["b"]}[faulty]
    nodes = [helper.make_node("Sum", ["x", *last[:2]], [last[-1]]), *NODES]
    if faulty == "cycle":
        nodes[2] = helper.make_node("Add", ["a", "d"], ["b"])
    model = graph(nodes)
    assert is_sorted(model) and not sort_nodes(model) and kinds(model)[0] == "Sum"
