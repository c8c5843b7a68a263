"""What is merged and what is not: the cost rule and the search for the tensors that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from irepdeploy.onnx_collapse import collapse, plan, region_collapser
from irepdeploy.onnx_collapse.cost import Cost, window
from irepdeploy.onnx_collapse.stencil import Axis
from irepdeploy.onnx_collapse.unit import Units

RNG = np.random.default_rng(3)
SAME = {"pads": [1, 1, 1, 1]}
Difference = Callable[..., float]


def weights(out: int, per_group: int, size: int) -> Any:
    return RNG.standard_normal((out, per_group, size, size)) / (per_group * size)


def convs(found: Any) -> list[tuple[int, ...]]:
    """Shapes of the kernels, in order."""
    shapes = {item.name: tuple(item.dims) for item in found.model.graph.initializer}
    return [shapes[node.input[1]] for node in found.model.graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        pytest.param(
            [("Conv", ["x", "a"], ["m"]), ("Conv", ["m", "b"], ["y"])],
            {"a": weights(4, 32, 1), "b": weights(32, 4, 3)},
            id="bottleneck",
        ),
        pytest.param(
            [("Conv", ["x", "a"], ["m"], {**SAME, "group": 32}), ("Conv", ["m", "b"], ["y"])],
            {"a": weights(32, 1, 3), "b": weights(32, 32, 1)},
            id="separable",
        ),
        pytest.param(
            [("AveragePool", ["x"], ["m"], {"kernel_shape": [2, 2], "strides": [2, 2]}), ("Conv", ["m", "b"], ["y"])],
            {"b": weights(32, 32, 1)},
            id="downsampling of ResNet-D",
        ),
        pytest.param(
            [
                ("Slice", ["x", "one", "end", "axes"], ["s"]),
                ("Conv", ["x", "a"], ["m"], {"strides": [2, 2]}),
                ("Conv", ["s", "b"], ["n"], {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
                ("Concat", ["m", "n"], ["y"], {"axis": 1}),
            ],
            {
                "a": weights(16, 32, 1),
                "b": weights(16, 32, 1),
                "one": [1, 1],
                "end": [2**40, 2**40],
                "axes": [2, 3],
            },
            id="factorized reduction",
        ),
    ],
)
def test_what_would_grow_stays(nodes: list[Any], constants: dict[str, Any], model_of: Any) -> None:
    model = model_of([*nodes, ("Relu", ["y"], ["z"])], constants, {"x": (1, 32, 12, 12)}, ["z"])
    found = collapse(model)
    assert not found.changed and found.content == model.SerializeToString(deterministic=True)
    assert "merged it would take" in found.regions[0].reason


def test_a_bottleneck_merges_beside_a_dense_convolution(collapsed: Any) -> None:
    """Its 3x3 costs nothing where there is one already."""
    nodes = [
        ("Conv", ["x", "a"], ["m"]),
        ("Conv", ["m", "b"], ["n"], SAME),
        ("Conv", ["x", "c"], ["o"], SAME),
        ("Add", ["n", "o"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"a": weights(4, 32, 1), "b": weights(32, 4, 3), "c": weights(32, 32, 3)}
    found = collapsed(nodes, constants, {"x": (1, 32, 12, 12)}, ["z"])
    assert convs(found) == [(32, 32, 3, 3)]


def test_two_bottlenecks_that_merge_only_together(collapsed: Any) -> None:
    """Each alone costs more; both together share one kernel."""
    nodes: list[Any] = []
    for name in "abc":
        nodes.append(("Conv", ["x", f"{name}1"], [f"{name}m"]))
        nodes.append(("Conv", [f"{name}m", f"{name}3"], [name], SAME))
    nodes += [("Sum", ["a", "b", "c"], ["y"]), ("Relu", ["y"], ["z"])]
    constants = {}
    for name in "abc":
        constants |= {f"{name}1": weights(16, 32, 1), f"{name}3": weights(32, 16, 3)}
    found = collapsed(nodes, constants, {"x": (1, 32, 12, 12)}, ["z"])
    assert convs(found) == [(32, 32, 3, 3)]


def test_depthwise_branches_merge_and_the_1x1_behind_them_stays(collapsed: Any) -> None:
    """RepViT's token mixer before a 1x1 with nothing between them."""
    nodes = [
        ("Conv", ["x", "a"], ["m"], {**SAME, "group": 32}),
        ("Conv", ["x", "b"], ["n"], {"group": 32}),
        ("Sum", ["m", "n", "x"], ["s"]),
        ("Conv", ["s", "c"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"a": weights(32, 1, 3), "b": weights(32, 1, 1), "c": weights(64, 32, 1)}
    found = collapsed(nodes, constants, {"x": (1, 32, 12, 12)}, ["z"])
    assert convs(found) == [(32, 1, 3, 3), (64, 32, 1, 1)]
    assert "merged it would take" in found.regions[0].reason


def test_many_chains_in_one_region(collapsed: Any) -> None:
    """More undecided tensors than are tried in every combination."""
    nodes: list[Any] = [("Conv", ["x", "d"], ["s0"], SAME)]
    constants: dict[str, Any] = {"d": weights(8, 8, 3)}
    for place in range(7):
        nodes.append(("Conv", ["x", f"a{place}"], [f"m{place}"]))
        nodes.append(("Conv", [f"m{place}", f"b{place}"], [f"n{place}"], SAME))
        nodes.append(("Add", [f"s{place}", f"n{place}"], [f"s{place + 1}"]))
        constants |= {f"a{place}": weights(8, 8, 1), f"b{place}": weights(8, 8, 3)}
    nodes.append(("Relu", ["s7"], ["z"]))
    found = collapsed(nodes, constants, {"x": (1, 8, 9, 9)}, ["z"])
    assert convs(found) == [(8, 8, 3, 3)]


def test_a_residual_sum_keeps_its_other_source(collapsed: Any) -> None:
    """Branches of one tensor, added in alternation with another tensor: one convolution and one sum."""
    nodes = [
        ("Relu", ["x"], ["r"]),
        ("Conv", ["r", "a"], ["m"], SAME),
        ("Add", ["m", "x"], ["s"]),
        ("Conv", ["r", "b"], ["n"]),
        ("Add", ["s", "n"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"a": weights(8, 8, 3), "b": weights(8, 8, 1)}
    found = collapsed(nodes, constants, {"x": (1, 8, 9, 9)}, ["z"])
    assert [node.op_type for node in found.model.graph.node] == ["Relu", "Conv", "Add", "Relu"]


def test_strides_that_differ(model_of: Any, largest_difference: Difference) -> None:
    """Two strides of one tensor in one sum: the sizes agree by chance, but no convolution has both strides."""
    nodes = [
        ("Conv", ["x", "a"], ["m"], {"strides": [2, 2]}),
        ("Conv", ["x", "b"], ["n"]),
        ("Add", ["m", "n"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    model = model_of(nodes, {"a": weights(4, 4, 1), "b": weights(4, 4, 5)}, {"x": (1, 4, 9, 9)}, ["z"])
    found = collapse(model)
    assert not found.changed and "strides differ" in found.regions[0].reason


def test_a_pre_activation_normalization_goes_into_all_its_readers(collapsed: Any) -> None:
    nodes = [
        ("BatchNormalization", ["x", "g", "b", "m", "v"], ["n"]),
        ("Conv", ["n", "a"], ["p"]),
        ("Conv", ["n", "c"], ["q"]),
        ("Relu", ["p"], ["y"]),
        ("Sigmoid", ["q"], ["z"]),
    ]
    statistics = {name: RNG.uniform(0.5, 2, 8) for name in "gbmv"}
    found = collapsed(
        nodes, {"a": weights(8, 8, 1), "c": weights(8, 8, 3), **statistics}, {"x": (1, 8, 9, 9)}, ["y", "z"]
    )
    assert found.operators_after == {"Conv": 2, "Relu": 1, "Sigmoid": 1}


def test_kernels_of_31_stay_depthwise(collapsed: Any) -> None:
    nodes = [
        ("Conv", ["x", "a"], ["m"], {"pads": [15] * 4, "group": 256}),
        ("Conv", ["x", "b"], ["n"], {"pads": [8] * 4, "dilations": [4, 4], "group": 256}),
        ("Add", ["m", "n"], ["s"]),
        ("BatchNormalization", ["s", "g", "b2", "m2", "v"], ["t"]),
        ("Add", ["t", "x"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    statistics = {name: RNG.uniform(0.5, 2, 256) for name in ("g", "b2", "m2", "v")}
    constants = {"a": weights(256, 1, 31), "b": weights(256, 1, 5), **statistics}
    found = collapsed(nodes, constants, {"x": (1, 256, 7, 9)}, ["z"])
    assert convs(found) == [(256, 1, 31, 31)]


def test_dilated_branches_keep_their_dilation(collapsed: Any) -> None:
    """A dilated convolution and its normalization: no zeros are written between its taps."""
    nodes = [
        ("Conv", ["x", "a"], ["m"], {"pads": [18] * 4, "dilations": [18, 18]}),
        ("Mul", ["m", "s"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    found = collapsed(nodes, {"a": weights(4, 4, 3), "s": np.asarray(2.0)}, {"x": (1, 4, 40, 38)}, ["z"])
    assert convs(found) == [(4, 4, 3, 3)]


def test_the_rule() -> None:
    before = Cost(macs=100, moved=10, nodes=3, convs=2)
    assert before.accepts(Cost(100, 9, 2, 1))
    for worse in (Cost(100, 10, 2, 1), Cost(90, 9, 3, 1), Cost(90, 9, 2, 3), Cost(101, 9, 2, 1), Cost(90, 20, 2, 1)):
        assert not before.accepts(worse)


@pytest.mark.parametrize(
    ("axis", "size", "dynamic", "expected"),
    [
        (Axis((-1, 0, 1), 1, -1), 8, False, (3, 1, 1, 1)),
        (Axis((-1, 0, 1), 2, -1), 8, False, (3, 1, 0, 1)),
        (Axis((-1, 0, 1), 2, -1), 8, True, (3, 1, 1, 1)),
        (Axis((-2, 0, 2), 1, -1), 8, False, (3, 2, 2, 2)),
        (Axis((1,), 2, -2), 8, False, (2, 0, 0, 1)),
        (Axis((0,), 1, -3), 8, False, (3, 0, 0, 1)),
    ],
)
def test_windows(axis: Axis, size: int, dynamic: bool, expected: tuple[int, ...]) -> None:
    """Taps, padding before and after, dilation; ONNX's formula gives the outputs that the axis has."""
    found = window(axis, size, dynamic=dynamic)
    assert (found.taps, found.before, found.after, found.dilation) == expected
    reach = (found.taps - 1) * found.dilation + 1
    assert (size + found.before + found.after - reach) // found.stride + 1 == axis.outputs(size)
    assert set(axis.offsets) <= set(found.offsets)


def residual_blocks(count: int, channels: int = 8) -> tuple[list[Any], dict[str, Any]]:
    """Return nodes and constants of blocks ``t + conv(relu(3x3(t) + 1x1(t)))`` from x to z, t being read twice."""
    nodes: list[Any] = [("Relu", ["x"], ["t0"])]
    constants: dict[str, Any] = {}
    for place in range(count):
        t = f"t{place}"
        a, b, c = (f"{role}{place}" for role in "abc")
        nodes.append(("Conv", [t, a], [f"{t}a"], SAME))
        nodes.append(("Conv", [t, b], [f"{t}b"]))
        nodes.append(("Add", [f"{t}a", f"{t}b"], [f"{t}s"]))
        nodes.append(("Relu", [f"{t}s"], [f"{t}r"]))
        nodes.append(("Conv", [f"{t}r", c], [f"{t}c"], SAME))
        nodes.append(("Add", [t, f"{t}c"], [f"t{place + 1}"]))
        constants |= {a: weights(channels, channels, 3), b: weights(channels, channels, 1)}
        constants[c] = weights(channels, channels, 3)
    return [*nodes, ("Relu", [f"t{count}"], ["z"])], constants


def test_branches_of_a_residual_sum_that_the_next_sum_reads_too(collapsed: Any) -> None:
    found = collapsed(*residual_blocks(4), {"x": (1, 8, 9, 7)}, ["z"])
    assert convs(found) == [(8, 8, 3, 3)] * 8
    assert found.operators_after == {"Conv": 8, "Relu": 6, "Add": 4}


def test_the_report_says_why_each_sum_is_kept(collapsed: Any) -> None:
    found = collapsed(*residual_blocks(4), {"x": (1, 8, 9, 7)}, ["z"])
    reasons = "; ".join(region.reason for region in found.regions).split("; ")
    for place in range(1, 4):
        behind = [each for each in reasons if each.startswith(f"behind 'Add_{6 * place}'")]
        assert behind == [f"behind 'Add_{6 * place}': the next operator pads with zeros where it is not zero"]


def test_a_scaled_map_that_branches_and_a_residual_read(collapsed: Any) -> None:
    """Scale and shift stay, as one operator; the three depthwise branches become one, the strided 3x3 stays."""
    nodes = [
        ("Tanh", ["x"], ["t"]),
        ("Mul", ["t", "g"], ["m"]),
        ("Add", ["m", "o"], ["s"]),
        ("Conv", ["s", "a"], ["p"], {"pads": [2] * 4, "group": 8}),
        ("Conv", ["s", "b"], ["q"], {**SAME, "group": 8}),
        ("Conv", ["s", "c"], ["r"], {**SAME, "group": 8}),
        ("Sum", ["p", "q", "r"], ["u"]),
        ("Relu", ["u"], ["v"]),
        ("Add", ["v", "s"], ["w"]),
        ("Conv", ["w", "d"], ["y"], {**SAME, "strides": [2, 2]}),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"a": weights(8, 1, 5), "b": weights(8, 1, 3), "c": weights(8, 1, 3), "d": weights(16, 8, 3)}
    constants |= {"g": RNG.uniform(0.5, 2, (1, 8, 1, 1)), "o": RNG.standard_normal((1, 8, 1, 1))}
    found = collapsed(nodes, constants, {"x": (1, 8, 9, 7)}, ["z"])
    assert convs(found) == [(8, 1, 5, 5), (16, 8, 3, 3)]
    assert found.operators_after == {"Tanh": 1, "BatchNormalization": 1, "Conv": 2, "Relu": 2, "Add": 1}


def test_an_expansion_between_reductions(collapsed: Any) -> None:
    """No two of the three convolutions are cheaper as one, but all three are."""
    nodes = [
        ("Conv", ["x", "a"], ["m"]),
        ("Conv", ["m", "b"], ["n"], {"group": 64}),
        ("Conv", ["n", "c"], ["y"]),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"a": weights(64, 8, 1), "b": weights(64, 1, 3), "c": weights(8, 64, 1)}
    assert convs(collapsed(nodes, constants, {"x": (1, 8, 9, 7)}, ["z"])) == [(8, 8, 3, 3)]


def test_a_factor_behind_a_sum_of_two_tensors(collapsed: Any) -> None:
    """It stays after the sum, since before it, it would be written twice."""
    nodes = [
        ("Relu", ["x"], ["r"]),
        ("Conv", ["r", "a"], ["m"], SAME),
        ("Conv", ["r", "b"], ["n"]),
        ("Sum", ["m", "n", "x"], ["s"]),
        ("Mul", ["s", "g"], ["t"]),
        ("Sigmoid", ["t"], ["z"]),
    ]
    constants = {"a": weights(8, 8, 3), "b": weights(8, 8, 1), "g": RNG.uniform(0.5, 2, (1, 8, 1, 1))}
    found = collapsed(nodes, constants, {"x": (1, 8, 9, 7)}, ["z"])
    assert found.operators_after == {"Relu": 1, "Conv": 1, "Add": 1, "Mul": 1, "Sigmoid": 1}


def test_a_sum_of_many_tensors(collapsed: Any) -> None:
    """A chain of sums ends in parts, none of which reads more than 16 tensors."""
    nodes: list[Any] = [("Relu", ["x"], ["s0"])]
    for place in range(40):
        nodes.append(("Sigmoid", [f"s{place}"], [f"r{place}"]))
        nodes.append(("Add", [f"s{place}", f"r{place}"], [f"s{place + 1}"]))
    nodes += [("Conv", ["s40", "a"], ["m"], SAME), ("Conv", ["s40", "b"], ["n"]), ("Add", ["m", "n"], ["y"])]
    constants = {"a": weights(4, 4, 3), "b": weights(4, 4, 1)}
    found = collapsed([*nodes, ("Relu", ["y"], ["z"])], constants, {"x": (1, 4, 5, 6)}, ["z"])
    assert convs(found) == [(4, 4, 3, 3)] and found.operators_after["Add"] == 40


@pytest.mark.parametrize("refused", [False, True])
def test_planning_takes_time_in_proportion_to_the_chain(refused: bool, model_of: Any, monkeypatch: Any) -> None:
    """Cost is in visited operators. A region with an invalid border is replanned without the rest of the chain."""
    monkeypatch.setattr(plan, "_WHOLE", 0)
    work = []
    for count in (10, 20):
        found: list[Units] = []

        class Kept(Units):
            def __init__(self, *args: Any, found: list[Units] = found) -> None:
                super().__init__(*args)
                found.append(self)

        monkeypatch.setattr(region_collapser, "Units", Kept)
        nodes, constants = residual_blocks(count, 2)
        for place in range(count if refused else 0):
            # One more branch: a 1x1 with a bias, and a 3x3 that pads it with zeros.
            t = f"t{place}"
            nodes.insert(-1, ("Conv", [t, f"b{place}", "o"], [f"{t}d"]))
            nodes.insert(-1, ("Conv", [f"{t}d", f"a{place}"], [f"{t}e"], SAME))
            nodes[nodes.index(("Relu", [f"{t}s"], [f"{t}r"]))] = ("Relu", [f"{t}f"], [f"{t}r"])
            nodes.insert(-1, ("Add", [f"{t}s", f"{t}e"], [f"{t}f"]))
        constants["o"] = np.ones(2)
        collapsed = collapse(model_of(ordered(nodes), constants, {"x": (1, 2, 5, 6)}, ["z"]))
        assert collapsed.operators_after["Conv"] == (4 if refused else 2) * count
        work.append(sum(units.work for units in found))
    assert work[1] < 2.7 * work[0], work


def ordered(nodes: list[Any]) -> list[Any]:
    """Return nodes in an order in which each reads what earlier ones compute."""
    known, found, rest = {"x"}, [], list(nodes)
    while rest:
        for node in list(rest):
            if all(name in known for name in node[1] if name[0] == "t"):
                found.append(node)
                known.update(node[2])
                rest.remove(node)
    return found
