"""Limits of integer inputs that a graph reveals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from irepdeploy.onnx_graph.input_limits import input_limits
from support.graph_writer import onnx_model

TABLE, SMALL = np.ones((12, 4), np.float32), np.ones((3, 4), np.float32)


def limits(*nodes: onnx.NodeProto, kind: int = TensorProto.INT64) -> dict[str, tuple[int, int]]:
    constants = {
        "table": TABLE, "small": SMALL, "rate": np.array(16000), "depth": np.array([7]), "axes": np.array([0]),
        "two": np.array(2),
    }  # fmt: skip
    return input_limits(onnx_model(list(nodes), {"ids": [1, 6]}, {"y": [1]}, constants, kinds={"ids": kind}))


def test_token_ids_are_within_the_smallest_table_that_reads_them() -> None:
    gather = make_node("Gather", ["table", "ids"], ["y"])
    assert limits(gather) == {"ids": (0, 11)}
    assert limits(make_node("Gather", ["table", "ids"], ["y"], axis=1)) == {"ids": (0, 3)}
    cast = make_node("Cast", ["ids"], ["c"], to=TensorProto.INT32)
    behind = [cast, make_node("Unsqueeze", ["c", "axes"], ["u"]), make_node("Gather", ["small", "u"], ["z"])]
    assert limits(gather, *behind) == {"ids": (0, 2)}
    assert limits(make_node("OneHot", ["ids", "depth", "axes"], ["y"])) == {"ids": (0, 6)}


def test_what_is_added_to_an_index_counts() -> None:
    gather = make_node("Gather", ["table", "sum"], ["y"])
    assert limits(make_node("Add", ["two", "ids"], ["sum"]), gather) == {"ids": (0, 9)}
    assert limits(make_node("Sub", ["ids", "two"], ["sum"]), gather) == {"ids": (2, 13)}
    assert limits(make_node("Sub", ["two", "ids"], ["sum"]), gather) == {}
    picked = [make_node("Unsqueeze", ["ids", "axes"], ["sum"]), make_node("GatherND", ["table", "sum"], ["y"])]
    assert limits(*picked) == {"ids": (0, 11)}


def test_a_number_that_is_compared_gets_that_value() -> None:
    assert limits(make_node("Equal", ["ids", "rate"], ["y"])) == {"ids": (16000, 16000)}


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.BOOL])
def test_other_inputs_have_none(kind: int) -> None:
    assert limits(make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT), kind=kind) == {}


def test_nothing_is_guessed() -> None:
    assert limits(make_node("Cast", ["ids"], ["y"], to=TensorProto.FLOAT)) == {}
    computed = make_node("Add", ["ids", "rate"], ["sum"])
    assert limits(computed, make_node("Gather", ["table", "sum"], ["y"])) == {}
