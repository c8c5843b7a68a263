"""Random linear regions become the single convolution that they equal; nearly linear ones keep their outputs.

A failure names its seed; ``linear_region(seed)`` or ``faulty_region(seed, fault)`` recreates the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import numpy as np
import onnx
import pytest

from irepdeploy.onnx_collapse import Collapse, collapse, form, region_collapser
from irepdeploy.onnx_collapse.proof import Proof
from support.linear_regions import FAULTS, LinearRegion, faulty_region, linear_region
from support.onnx_float64 import evaluate
from support.random_graphs import random_graph

# Kernels are rounded to float32 once, from numbers that may cancel.
FLOAT32 = 1e-5
# Graphs in one test: 230 in all, and 23,000 more at night.
LINEAR, FAULTY, ANY = 100, 10, 50


def chunks(now: int, night: int) -> list[Any]:
    """Numbers of chunks of seeds, those from `now` on run by `make nightly` only."""
    return [*range(now), *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in range(now, night))]


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def difference(region: LinearRegion, found: Collapse) -> float:
    """Largest difference of any output from the graph as it was, over the largest number in it."""
    feeds = region.feeds()
    expected, outputs = evaluate(region.model, feeds), evaluate(found.content, feeds)
    assert list(expected) == list(outputs)
    worst = 0.0
    for name, array in expected.items():
        assert outputs[name].shape == array.shape
        worst = max(worst, float(np.abs(outputs[name] - array).max() / max(float(np.abs(array).max()), 1.0)))
    return worst


def check_linear(seed: int) -> None:
    region = linear_region(seed)
    found = collapse(region.model)
    error = difference(region, found)
    assert error <= FLOAT32, (seed, error)
    left = operators(found.model)
    # 1x1 for each channel alone is cheaper as a scale and a shift.
    layers = left["Conv"] + left["BatchNormalization"] + left["Mul"] + left["Add"]
    assert layers == 1 and sum(left.values()) == 2, (seed, dict(left), [r.reason for r in found.regions])
    for one in found.regions:
        assert (one.error_interior or 0.0) <= 1e-10 and (one.error_border or 0.0) <= 1e-6, (seed, one)


def check_faulty(seed: int, fault: str) -> None:
    region = faulty_region(seed, fault)
    found = collapse(region.model)
    error = difference(region, found)
    assert error <= FLOAT32, (seed, fault, error)
    left = operators(found.model)
    assert left["Conv"] <= operators(region.model)["Conv"], (seed, fault, dict(left))
    kept = {"relu inside": "Relu", "padding not counted": "AveragePool", "product": "Mul"}.get(fault)
    if kept is not None:
        assert left[kept] >= (2 if kept == "Relu" else 1), (seed, fault, dict(left))
    if fault in ("bias before padding", "cut, then padded", "reflected", "computed weights"):
        assert left["Conv"] > 1, (seed, fault, dict(left))
    if seed % 5 == 0:
        again = collapse(found.content)
        assert not again.changed and again.content == found.content, (seed, fault)


@pytest.mark.parametrize("chunk", chunks(1, 156))
def test_one_convolution(chunk: int) -> None:
    for seed in range(chunk * LINEAR, (chunk + 1) * LINEAR):
        check_linear(seed)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("chunk", chunks(1, 55))
def test_nearly_linear(chunk: int, fault: str) -> None:
    for seed in range(chunk * FAULTY, (chunk + 1) * FAULTY):
        check_faulty(seed, fault)


def check_any(seed: int) -> None:
    """Outputs stay the same, convolutions do not increase, and a second collapse changes nothing."""
    region = random_graph(seed)
    border: Literal["map", "refuse"] = "map" if seed % 2 else "refuse"
    found = collapse(region.model, border=border)
    error = difference(region, found)
    assert error <= FLOAT32, (seed, error)
    assert operators(found.model)["Conv"] <= operators(region.model)["Conv"], seed
    if not found.changed:
        assert found.content == region.model.SerializeToString(deterministic=True), seed
    again = collapse(found.content, border=border)
    assert not again.changed and again.content == found.content, seed


@pytest.mark.parametrize("chunk", chunks(1, 80))
def test_any_graph(chunk: int) -> None:
    for seed in range(chunk * ANY, (chunk + 1) * ANY):
        check_any(seed)


def test_once_is_enough() -> None:
    for seed in range(0, 800, 100):
        found = collapse(linear_region(seed).model)
        again = collapse(found.content)
        assert not again.changed and again.content == found.content, seed


def test_a_map_at_the_border() -> None:
    """A region that is refused for its border becomes a convolution and a map, exactly."""
    mapped = 0
    for seed in range(15):
        region = faulty_region(seed, "bias before padding")
        found = collapse(region.model, border="map")
        assert difference(region, found) <= FLOAT32, seed
        mapped += operators(found.model)["Conv"] == 1
    assert mapped >= 12


# Whether these tests detect a collapser that is wrong at the border.

MUTANTS: dict[str, tuple[str, Any, str]] = {
    "what lies outside the map inside": ("_reaches_over", lambda *args, **kwargs: False, "cut, then padded"),
    "a bias before zero padding": ("UNIFORM", math.inf, "bias before padding"),
}


def wrong(fault: str, seeds: range) -> int:
    count = 0
    for seed in seeds:
        region = faulty_region(seed, fault)
        count += difference(region, collapse(region.model)) > FLOAT32
    return count


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_collapser_without_the_border_check(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value, fault = MUTANTS[mutant]
    monkeypatch.setattr(form, name, value)
    # The proof of each region still rejects it; without the proof, the outputs here show the error.
    assert wrong(fault, range(15)) == 0
    monkeypatch.setattr(region_collapser, "prove", lambda unit, built, context: Proof(0.0, 0.0))
    assert wrong(fault, range(15)) >= 8
