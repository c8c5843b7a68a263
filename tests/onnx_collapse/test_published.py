"""Every peer's network, as published and as torch's exporters write it, becomes the form that its authors deploy."""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.onnx_collapse import Collapse, collapse
from irepdeploy.reparam.comparator import relative_error
from support.deep_networks import deep_network
from support.onnx_float64 import evaluate
from support.published_borders import DiverseBranchBlock
from support.published_networks import PUBLISHED, exported, published_network

INTERIOR, BORDER, FLOAT32 = 1e-10, 1e-6, 2e-6
EXACT = [name for name, network in PUBLISHED.items() if network.deploy_convs is not None]
# Networks that a later opset may write differently.
LATER = ("yolov9", "repvit", "orepa")

SLOW = pytest.mark.slow
needs_onnxscript = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None,
    reason="onnxscript is not installed: pip install 'irepdeploy[dynamo]'",
)


@functools.cache
def given(name: str, opset: int = 13, dynamo: bool = False, fold_bn: bool = True, dynamic: bool = False) -> bytes:
    network = published_network(name)
    shape = PUBLISHED[name].input_shape
    return exported(network, shape, opset=opset, dynamo=dynamo, fold_bn=fold_bn, dynamic=dynamic)


@functools.cache
def collapsed(name: str, opset: int = 13, border: str = "refuse") -> Collapse:
    return collapse(given(name, opset), border="map" if border == "map" else "refuse")


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def outputs(content: bytes, image: np.ndarray) -> np.ndarray:
    with OrtRunner(content) as runner:
        return runner.infer({"input": image})["output"]


def check_proofs(name: str, found: Collapse) -> None:
    assert any(region.collapsed for region in found.regions)
    limit = BORDER if PUBLISHED[name].rounded_border else INTERIOR
    for region in found.regions:
        if region.collapsed:
            errors = (region.error_interior, region.error_border)
            assert any(error is not None for error in errors), region.name
            assert region.error_interior is None or region.error_interior <= INTERIOR, region
            assert region.error_border is None or region.error_border <= limit, region
            assert region.macs_after <= region.macs_before


def check_same(name: str, before: bytes, found: Collapse) -> None:
    """In ONNX Runtime, and against the torch network in float64 through an interpreter independent of the collapse."""
    shape = (1, *PUBLISHED[name].input_shape)
    image = np.random.default_rng(7).standard_normal(shape, dtype=np.float32)
    assert relative_error(outputs(before, image), outputs(found.content, image)) <= 10 * FLOAT32
    network = published_network(name).double()
    with torch.no_grad():
        expected = network(torch.from_numpy(image.astype(np.float64))).numpy()
    exact = _float64(found.content, image)
    assert relative_error(expected, exact if exact is not None else outputs(found.content, image)) <= FLOAT32


def _float64(content: bytes, image: np.ndarray) -> np.ndarray | None:
    try:
        return evaluate(content, {"input": image})["output"]
    except KeyError:
        return None


def check_deploy_form(name: str, before: bytes, found: Collapse) -> None:
    after = operators(found.model)
    assert found.changed and after["Conv"] == PUBLISHED[name].deploy_convs
    assert operators(onnx.load_model_from_string(found.content)) == after
    left = {"BatchNormalization", "AveragePool", "Pad", "ScatterND", "ScatterElements", "Shape", "Einsum", "Slice"}
    # YOLOv9 reads halves of a tensor; what is left of a GELU that the exporter took apart may be a scale and a shift.
    left -= {"yolov9": {"Slice"}, "repvit": {"BatchNormalization"}, "unireplknet": {"BatchNormalization"}}.get(
        name, set()
    )
    assert not left & set(after)
    check_proofs(name, found)
    check_same(name, before, found)


def check_idempotent(found: Collapse) -> None:
    again = collapse(found.content)
    assert not again.changed and again.content == found.content


# Of the families by branches, `ireps` has what these two have.
LONG = ("dyrep", "dbb")


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        pytest.param(name, opset, marks=[SLOW] if (opset == 20 and name not in LATER) or name in LONG else [])
        for name in EXACT
        for opset in (13, 20)
    ],
)
def test_the_deploy_form(name: str, opset: int) -> None:
    found = collapsed(name, opset)
    check_deploy_form(name, given(name, opset), found)
    if opset == 13:
        check_idempotent(found)


@pytest.mark.slow
@needs_onnxscript
def test_the_newer_exporter_on_borders() -> None:
    """Two of the blocks whose border is written by slice assignment."""
    network = randomize_statistics(nn.Sequential(DiverseBranchBlock(3, 8, 2), DiverseBranchBlock(8, 8)), 0).eval()
    before = exported(network, (3, 21, 18), opset=18, dynamo=True)
    found = collapse(before)
    assert operators(found.model) == {"Conv": 2, "Relu": 2}
    check_proofs("dbb", found)
    image = np.random.default_rng(7).standard_normal((1, 3, 21, 18), dtype=np.float32)
    assert relative_error(outputs(before, image), outputs(found.content, image)) <= 10 * FLOAT32


@SLOW
@needs_onnxscript
@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("name", EXACT)
def test_the_newer_exporter(name: str, opset: int) -> None:
    before = given(name, opset, dynamo=True)
    found = collapse(before)
    check_deploy_form(name, before, found)
    check_idempotent(found)


@pytest.mark.parametrize(
    "name", ["repvgg", *(pytest.param(name, marks=SLOW) for name in ("unireplknet", "acnet", "mobileone"))]
)
def test_batch_normalization_that_the_exporter_left(name: str) -> None:
    before = given(name, fold_bn=False)
    assert operators(onnx.load_model_from_string(before))["BatchNormalization"] > 6
    check_deploy_form(name, before, collapse(before))


@pytest.mark.parametrize("name", ["mobileone", *(pytest.param(name, marks=SLOW) for name in ("yolov7", "repvgg"))])
def test_sizes_that_are_free(name: str) -> None:
    """If no border has a bias, borders need no special treatment."""
    before = given(name, dynamic=True)
    found = collapse(before)
    check_deploy_form(name, before, found)
    image = np.random.default_rng(1).standard_normal((2, 3, 33, 20), dtype=np.float32)
    assert relative_error(outputs(before, image), outputs(found.content, image)) <= 10 * FLOAT32


def test_a_border_that_is_no_convolution_is_refused() -> None:
    before, found = given("ireps-naive"), collapsed("ireps-naive")
    count, first = operators(found.model)["Conv"], operators(onnx.load_model_from_string(before))["Conv"]
    # What is left of each block: all but the chains in one, and the chains.
    assert first == 60 and 6 * 3 <= count <= 6 * 5
    reasons = [region.reason for region in found.regions if region.reason]
    assert any("border" in reason for reason in reasons)
    check_proofs("ireps-naive", found)
    check_same("ireps-naive", before, found)
    check_idempotent(found)


def test_a_border_that_is_no_convolution_as_a_map() -> None:
    before, found = given("ireps-naive"), collapsed("ireps-naive", border="map")
    after = operators(found.model)
    assert after["Conv"] == 6 and after["Add"] == 6 and after["AveragePool"] == after["Pad"] == 0
    check_proofs("ireps-naive", found)
    check_same("ireps-naive", before, found)


@pytest.mark.parametrize("name", ["repvgg", "ireps-naive"])
def test_names_and_metadata_stay(name: str) -> None:
    model = onnx.load_model_from_string(given(name))
    model.metadata_props.add(key="classes", value="[1, 2]")
    found = collapse(model.SerializeToString())
    assert [value.SerializeToString() for value in found.model.graph.input] == [
        value.SerializeToString() for value in model.graph.input
    ]
    assert [value.name for value in found.model.graph.output] == [value.name for value in model.graph.output]
    assert {entry.key: entry.value for entry in found.model.metadata_props} == {"classes": "[1, 2]"}
    assert found.model.opset_import == model.opset_import and found.model.ir_version == model.ir_version


@SLOW
@pytest.mark.parametrize(("name", "convs"), [("RepNeXt", (254, 116)), ("GhostNet", (253, 253)), ("GELAN", (253, 189))])
def test_250_convolutions_that_hang_together(name: str, convs: tuple[int, int]) -> None:
    """Everything that is not merged has a reason, and a second collapse finds nothing."""
    before = exported(deep_network(name), (3, 14, 14))
    found = collapse(before)
    assert (found.operators_before["Conv"], found.operators_after["Conv"]) == convs
    image = np.random.default_rng(7).standard_normal((1, 3, 14, 14), dtype=np.float32)
    assert relative_error(outputs(before, image), outputs(found.content, image)) <= 1e-4
    check_idempotent(found)
