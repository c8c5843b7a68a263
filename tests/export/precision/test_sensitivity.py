"""int8 within a budget: the loss, the layers that stay float, the report; and the stress test of ranges."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.data import DATASETS, load_dataset
from irepdeploy.data.dataset import Split
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.export.precision.calibration import CalibrationData, calibration_data
from irepdeploy.export.precision.equalize import hidden_pairs, rescaled
from irepdeploy.export.precision.inference import arrays_of, outputs_of
from irepdeploy.export.precision.int8 import quantizable, quantized
from irepdeploy.export.precision.int8_report import Int8Loss, Int8Report
from irepdeploy.export.precision.sensitivity import int8_model
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.verify.inputs import InputGroup
from support.networks import random_network

SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def data() -> CalibrationData:
    return calibration_data(SHAPE, dataset="digits")


def spread(model: onnx.ModelProto, decades: float, seed: int = 0) -> onnx.ModelProto:
    """Scale hidden channels by 10^U(-decades, decades) without changing the outputs."""
    rng = np.random.default_rng(seed)
    return rescaled(model, {pair: 10 ** rng.uniform(-decades, decades, pair.channels) for pair in hidden_pairs(model)})


def accuracy(model: onnx.ModelProto, data: CalibrationData) -> float:
    scores = outputs_of(model, data.evaluation.array)["logits"]
    return 100 * float(np.mean(scores.argmax(1) == data.labels))


def plain(report: Int8Report) -> dict:
    return json.loads(json.dumps(report.to_dict(), allow_nan=False))


# The stress test. It says nothing about the accuracy of any network: on networks of this size int8 loses nothing. It
# gives one the ranges that deep networks get, without changing what it computes.


@pytest.mark.parametrize("seed", [0, 1])
def test_stress_per_tensor_collapses_and_equalization_fixes_it(
    trained: onnx.ModelProto, data: CalibrationData, seed: int
) -> None:
    stressed = spread(trained, 1, seed)
    plain_scores, scores = (outputs_of(model, data.evaluation.array)["logits"] for model in (trained, stressed))
    assert np.abs(plain_scores - scores).max() <= 1e-5 * np.abs(plain_scores).max()
    float32 = accuracy(stressed, data)
    assert float32 > 90
    assert accuracy(quantized(stressed, data.calibration.array, per_channel=False), data) < 50
    for activations in ("int8", "uint8"):
        model, report = int8_model(stressed, data, activations=activations)
        assert report.equalization.kept and report.kept_float == ()
        assert accuracy(model, data) >= float32 - 0.5
        assert report.loss.logit_sqnr_db is not None and report.loss.logit_sqnr_db > 30


def test_stress_beyond_what_per_channel_weights_save(trained: onnx.ModelProto, data: CalibrationData) -> None:
    stressed = spread(trained, 1.5)
    assert accuracy(quantized(stressed, data.calibration.array), data) < 50
    model, report = int8_model(stressed, data)
    assert accuracy(model, data) >= accuracy(stressed, data) - 0.5 and report.kept_float == ()


# The loss and the report.


def test_what_is_within_a_budget() -> None:
    loss = Int8Loss(40.0, 0.999, (90.0, 89.0), 0.99, "", 1.0)
    assert loss.within(1) and not loss.within(0.9)
    assert dataclasses.replace(loss, drop=None).within(0) and dataclasses.replace(loss, drop=-2.0).within(0)
    assert not dataclasses.replace(loss, cosine=0.989).within(1)
    assert not dataclasses.replace(loss, cosine=math.nan).within(1)
    assert not dataclasses.replace(loss, problem="NaN").within(1)
    # 500 and 497 of 600 right: a loss of half a point, however it is rounded.
    assert dataclasses.replace(loss, drop=100 * 500 / 600 - 100 * 497 / 600).within(0.5)


def test_a_network_that_needs_nothing(trained: onnx.ModelProto, data: CalibrationData) -> None:
    lines: list[str] = []
    before = serialized(trained)
    model, report = int8_model(trained, data, report=lines.append)
    assert serialized(trained) == before
    onnx.checker.check_model(model, full_check=True)
    found = plain(report)
    assert found["kept_float"] == [] and len(lines) == 2
    assert found["measured_on"] == {
        "name": "data set digits, search-validation set",
        "count": 400,
        "shape": [1, 16, 16],
        "seed": None,
        "labels": True,
    }
    assert found["calibration"]["name"] == "data set digits, training images"
    assert found["accuracy"]["float32"] == accuracy(trained, data)
    assert found["accuracy"]["int8"] == accuracy(model, data)
    assert found["drop"] == found["accuracy"]["float32"] - found["accuracy"]["int8"] <= 0.5
    a, b = (outputs_of(m, data.evaluation.array)["logits"].astype(float) for m in (trained, model))
    assert found["logit_sqnr_db"] == pytest.approx(10 * math.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert found["size_bytes"] == {"float32": trained.ByteSize(), "int8": model.ByteSize()}
    assert [layer["layer"] for layer in found["layers"]] == quantizable(trained)
    for layer in found["layers"]:
        assert 25 < layer["tensor_db"] <= layer["channel_db"] + 1 and layer["worst_channel_db"] <= layer["tensor_db"]
        assert layer["alone_db"] is None
    # If equalization has nothing to fix, rounding to powers of two costs a little.
    assert found["equalisation"]["sqnr_after_db"] < found["equalisation"]["sqnr_before_db"]
    assert not report.equalization.kept and report.equalization.max_rel_error == 0
    assert serialized(model) == serialized(quantized(trained, data.calibration.array))


def narrow(model: onnx.ModelProto, *layers: str) -> onnx.ModelProto:
    """Scale one output channel of each of these layers by 10,000, and undo it in the next layer."""
    pairs = {pair.first: pair for pair in hidden_pairs(model)}
    scale = {name: np.ones(pairs[name].channels) for name in layers}
    for values in scale.values():
        values[0] = 1e-4
    return rescaled(model, {pairs[name]: values for name, values in scale.items()})


def test_the_costly_layers_stay_float(trained: onnx.ModelProto, data: CalibrationData) -> None:
    """A map with one huge channel is lost in int8: only the layer that reads it must stay float."""
    model = narrow(trained, "stages.1.0.conv")
    lines: list[str] = []
    result, report = int8_model(model, data, equalize=False, report=lines.append)
    assert report.kept_float == ("stages.1.1.conv",)
    assert report.loss.within(0.5) and report.to_dict()["kept_float"] == ["stages.1.1.conv"]
    alone = {layer.layer: layer.alone_db for layer in report.layers}
    assert min(alone, key=lambda name: alone[name]) == "stages.1.1.conv"  # type: ignore[arg-type, return-value]
    assert all(value is not None for value in alone.values())
    weights = arrays_of(result)
    assert np.array_equal(weights["stages.1.1.conv.weight"], arrays_of(model)["stages.1.1.conv.weight"])
    assert sum("sensitivity" in line for line in lines) == 7
    two, report = int8_model(narrow(trained, "stages.0.0.conv", "stages.2.0.conv"), data, equalize=False)
    assert set(report.kept_float) == {"stages.0.1.conv", "stages.2.1.conv"}
    assert accuracy(two, data) >= accuracy(trained, data) - 0.5


def test_int8_that_grows_is_advised_against(trained: onnx.ModelProto, data: CalibrationData) -> None:
    """For layers of a few weights, Q/DQ nodes take more bytes than int8 saves."""
    torch.manual_seed(0)
    tiny = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)).eval()
    model = onnx_from_torch(tiny, [TensorSpec("input", (1, *SHAPE))], ["logits"])
    advice = "the int8 file is not smaller than the float32 one: int8 is not advised here"
    for given, grows in ((model, True), (trained, False)):
        _, report = int8_model(given, data, max_drop=100)
        sizes = plain(report)["size_bytes"]
        assert (sizes["int8"] >= sizes["float32"]) == grows
        assert (advice in plain(report)["notes"]) == grows


def test_without_labels_the_classes_must_agree(trained: onnx.ModelProto, data: CalibrationData) -> None:
    unlabelled = dataclasses.replace(data, labels=None)
    _, report = int8_model(narrow(trained, "stages.1.0.conv"), unlabelled, equalize=False)
    assert report.kept_float == ("stages.1.1.conv",)
    found = plain(report)
    assert found["accuracy"] is None and not found["measured_on"]["labels"]
    assert found["top1_agreement"] is not None and found["drop"] == pytest.approx(100 * (1 - found["top1_agreement"]))


def test_a_random_network_is_held_to_the_cosine_alone() -> None:
    model = onnx_from_torch(random_network(), [TensorSpec("input", (1, *SHAPE))], ["logits"])
    _, report = int8_model(model, calibration_data(SHAPE), activations="uint8")
    found = plain(report)
    assert found["drop"] is None and "not informative" in found["top1_note"] and found["cosine"] >= 0.99
    assert any("not informative" in note for note in found["notes"])
    assert found["calibration"]["name"] == found["measured_on"]["name"] == "photographs (scikit-learn)"


def test_a_budget_that_cannot_be_met(trained: onnx.ModelProto, data: CalibrationData) -> None:
    # The labels are float32's predictions, so every change of class is a loss.
    scores = outputs_of(trained, data.evaluation.array)["logits"]
    given = dataclasses.replace(data, labels=scores.argmax(1))
    names = ["stages.0.0.conv", "stages.0.1.conv", "stages.1.0.conv", "stages.1.1.conv", "stages.2.0.conv"]
    model = narrow(trained, *names, "stages.2.1.conv")
    # Inputs with one huge value: in int8 nothing is left of the rest, even for the first layer.
    images = data.calibration.array.copy()
    images[0, 0, 0, 0] = 1e5
    given = dataclasses.replace(given, calibration=InputGroup("spoilt", images))
    with pytest.raises(
        CheckFailed, match=r"int8 loses too much: .* points of accuracy lost.*; the costliest are \S+, \S+.*--max-drop"
    ):
        int8_model(model, given, equalize=False)


@pytest.mark.parametrize("max_drop", [-1, float("nan"), float("inf"), "1"])
def test_bad_budgets(trained: onnx.ModelProto, data: CalibrationData, max_drop: float) -> None:
    with pytest.raises(InputError, match="max_drop"):
        int8_model(trained, data, max_drop=max_drop)


# Several inputs.


class TwoImages(nn.Module):
    """Scores of two images, one ten times as bright as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 10)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc((self.left(left) + self.right(right * 10)).relu().flatten(1))
        return scores


SPECS = [TensorSpec("left", (1, 3, 8, 8)), TensorSpec("right", (1, 1, 8, 8))]


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_several_inputs(activations: str) -> None:
    torch.manual_seed(0)
    model = onnx_from_torch(TwoImages().eval(), SPECS, ["logits"])
    data = calibration_data(SPECS)
    assert set(data.calibration.array) == set(data.evaluation.array) == {"left", "right"}
    assert data.calibration.count == data.evaluation.count == 32 and data.labels is None
    assert not np.array_equal(data.calibration.array["left"], data.evaluation.array["left"])
    result, report = int8_model(model, data, activations=activations)
    assert report.kept_float == () and report.loss.within(0.5)
    found = plain(report)
    assert found["calibration"]["shape"] == {"left": [3, 8, 8], "right": [1, 8, 8]}
    a, b = (outputs_of(each, data.evaluation.array)["logits"].astype(float) for each in (model, result))
    assert found["logit_sqnr_db"] == pytest.approx(10 * math.log10((a**2).sum() / ((a - b) ** 2).sum()))
    # Each input has the range of its own images.
    steps = {node.input[0]: node.input[1] for node in result.graph.node if node.op_type == "QuantizeLinear"}
    arrays, images = arrays_of(result), data.calibration.array
    for name, image in (("left", images["left"]), ("mul", 10 * images["right"])):
        spans = np.abs(image).max() / 127 if activations == "int8" else np.ptp(image) / 255
        assert float(arrays[steps[name]]) == pytest.approx(spans, rel=1e-2)


def test_the_costly_layer_of_several_inputs_stays_float() -> None:
    torch.manual_seed(0)
    net = TwoImages().eval()
    # All values that the scores depend on are small compared with one channel that they do not read.
    with torch.no_grad():
        net.left.weight[0] *= 1e4
        net.left.weight[0].abs_()
        net.fc.weight[:, :64] *= 1e-7
    model = onnx_from_torch(net, SPECS, ["logits"])
    data = calibration_data(SPECS)
    _, report = int8_model(model, data, equalize=False)
    assert report.kept_float == ("fc",)


def test_several_inputs_that_are_given_and_none_that_is_real() -> None:
    rng = np.random.default_rng(0)
    given = {spec.name: rng.standard_normal((5, *spec.shape[1:]), dtype=np.float32) for spec in SPECS}
    data = calibration_data(SPECS, given=given)
    assert data.evaluation is data.calibration and data.calibration.count == 5
    assert np.array_equal(data.calibration.array["right"], given["right"])
    codes = [TensorSpec("a", (1, 7)), TensorSpec("b", (1, 9))]
    drawn = calibration_data(codes)
    assert not drawn.is_real and drawn.calibration.name.startswith("random")
    assert calibration_data(SHAPE).is_real and calibration_data(SPECS).is_real
    given = {spec.name: np.ones((2, *spec.shape[1:]), np.float32) for spec in codes}
    assert calibration_data(codes, given=given).calibration.count == 2


# Calibration and evaluation inputs.


def test_the_test_set_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Split:
        raise AssertionError("the test set was read")

    whole = load_dataset("digits")
    monkeypatch.setitem(DATASETS, "digits", lambda: dataclasses.replace(whole, load_test=refuse))
    found = calibration_data(SHAPE, dataset="digits")
    assert np.array_equal(found.calibration.array, whole.train.images[:128].numpy())
    assert np.array_equal(found.evaluation.array, whole.val.images.numpy())
    assert found.labels is not None and np.array_equal(found.labels, whole.val.labels.numpy())


def test_other_sources_of_inputs() -> None:
    given = np.random.default_rng(0).standard_normal((5, 1, 16, 16), dtype=np.float32)
    both = calibration_data(SHAPE, given=given, dataset="digits")
    assert np.array_equal(both.calibration.array, given) and "search-validation" in both.evaluation.name
    alone = calibration_data(SHAPE, given=given)
    assert alone.evaluation is alone.calibration and alone.labels is None and alone.evaluation.name == "given inputs"
    photographs = calibration_data((3, 20, 20), dataset="digits")
    a, b = photographs.calibration.array, photographs.evaluation.array
    assert a.shape == b.shape == (128, 3, 20, 20) and photographs.labels is None
    assert not any(np.array_equal(x, y) for x in a[:8] for y in b)
