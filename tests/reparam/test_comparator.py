"""The single definition of equality of outputs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.board.comparison import NOISE_FACTOR, Noise
from irepdeploy.errors import InputError
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance, compare_outputs, relative_error


def logits(rows: int = 20, classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, classes)).astype(np.float32)


def test_error_is_relative_to_the_largest_value_of_the_reference() -> None:
    assert relative_error(np.array([1.0, -4.0]), np.array([1.0, -3.0])) == 0.25
    assert relative_error(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_error(np.zeros(3), np.ones(3)) == float("inf")
    assert np.isnan(relative_error(np.array([np.nan]), np.array([1.0])))


def test_the_tolerance_is_the_border() -> None:
    a = np.array([[1.0, 0.0]])
    assert compare_outputs({"y": a}, {"y": a + np.array([0, 9e-5])}).ok
    verdict = compare_outputs({"y": a}, {"y": a + np.array([0, 1.1e-4])})
    assert not verdict.ok and "differs by 1.10e-04" in verdict.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_is_never_the_same(bad: float, which: int) -> None:
    pair = [logits(), logits()]
    pair[which][0, 0] = bad
    verdict = compare_outputs({"y": pair[0]}, {"y": pair[1]})
    assert not verdict.ok and "NaN" in verdict.reason
    json.dumps(verdict.to_dict(), allow_nan=False)


def test_all_zero_proves_nothing() -> None:
    zeros = np.zeros((3, 4), np.float32)
    assert not compare_outputs({"y": zeros}, {"y": zeros}).ok
    assert "zeros" in compare_outputs({"y": logits()}, {"y": np.zeros_like(logits())}).reason


def test_whole_numbers_may_all_be_zero() -> None:
    zeros = np.zeros((3, 4), np.int64)
    assert compare_outputs({"class": zeros}, {"class": zeros}).ok
    assert not compare_outputs({"class": zeros}, {"class": zeros + np.eye(3, 4, dtype=np.int64)}).ok
    assert not compare_outputs({"class": zeros + 1}, {"class": zeros}).ok


def test_shapes_and_numbers_of_outputs() -> None:
    assert "shapes differ" in compare_outputs({"y": logits(3)}, {"y": logits(4)}).reason
    with pytest.raises(InputError, match="numbers of outputs: 1 and 2"):
        compare_outputs({"y": logits()}, {"y": logits(), "z": logits()})
    assert not compare_outputs({}, {}).ok


def test_outputs_pair_by_name_and_else_by_position() -> None:
    a, b = logits(seed=1), logits(seed=2)
    assert compare_outputs({"y": a, "z": b}, {"z": b, "y": a}).ok
    assert compare_outputs({"y": a, "z": b}, {"p": a, "q": b}).ok
    assert not compare_outputs({"y": a, "z": b}, {"p": b, "q": a}).ok


def test_top1_counts_only_where_it_says_something() -> None:
    (output,) = compare_outputs({"y": logits(200)}, {"y": logits(200)}).outputs
    assert output.top1_agreement == 1.0
    one_class = logits() + np.eye(10, dtype=np.float32)[0] * 100
    (output,) = compare_outputs({"y": one_class}, {"y": one_class}).outputs
    assert output.top1_agreement is None and "1 of 10 classes" in output.top1_note
    (output,) = compare_outputs({"y": logits()}, {"y": -logits()}).outputs
    assert output.top1_agreement == 0.0


def test_a_close_call_is_not_held_against_a_model() -> None:
    a = np.eye(10, dtype=np.float32)
    a[0, 1] = 1 - 1e-6
    b = a.copy()
    b[0, 1] = 1 + 1e-6
    (output,) = compare_outputs({"y": a}, {"y": b}).outputs
    assert output.top1_agreement == 1.0


def test_cosine_has_a_gate_of_its_own() -> None:
    a = np.array([[100.0, 1, 1, 1]])
    b = np.array([[100.0, -1, -1, -1]])
    assert compare_outputs({"y": a}, {"y": b}, Tolerance(0.1)).ok
    assert not compare_outputs({"y": a}, {"y": b}, Tolerance(0.1, 0.99999)).ok
    assert TOLERANCES["float16"].min_cosine == 0.999


def test_the_first_bad_layer_is_named() -> None:
    net = ird.insert_branches(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 3, 3)), "acnet"
    )
    net.eval()
    plain = ird.fuse(net)
    with torch.no_grad():
        plain[2].weight[0, 0, 0, 0] += 1
    verdict = ird.compare(net, plain, torch.randn(2, 2, 12, 12))
    assert not verdict.ok and verdict.first_bad_layer == "2"
    assert "first layer that differs is 2" in verdict.reason


def test_train_mode_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1))
    with pytest.raises(InputError, match="train mode"):
        ird.compare(net.eval(), nn.Sequential(nn.Conv2d(1, 1, 3)), torch.zeros(1, 1, 5, 5))


def test_forms_of_other_precision_are_compared_on_the_same_numbers() -> None:
    net = ird.insert_branches(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)), "acnet").eval()
    verdict = ird.compare(net, ird.fuse(net).double(), torch.randn(2, 2, 12, 12))
    assert verdict.ok and verdict.worst_layer is not None


def test_the_reason_names_the_bounds_that_failed() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 50))
    near, far = (a + spread * rng.standard_normal(a.shape) for spread in (0.3, 1e-3))
    by_cosine = compare_outputs({"y": a}, {"y": near}, TOLERANCES["int8"])
    assert not by_cosine.ok and "at least 0.99 is needed" in by_cosine.reason
    assert "inf" not in by_cosine.reason and "allowed" not in by_cosine.reason
    by_error = compare_outputs({"y": a}, {"y": far}, Tolerance(1e-6, 0.99))
    assert not by_error.ok and "1e-06 is allowed" in by_error.reason and "cosine" not in by_error.reason
    by_both = compare_outputs({"y": a}, {"y": near}, Tolerance(1e-6, 0.99))
    assert "1e-06 is allowed" in by_both.reason and "at least 0.99 is needed" in by_both.reason
    passed = compare_outputs({"y": a}, {"y": far}, TOLERANCES["int8"])
    assert passed.ok and "inf" not in passed.reason and "at least 0.99" in passed.reason
    assert str(passed.allowed) == "cosine 0.99" and passed.to_dict()["tolerance"]["max_rel_error"] is None


def test_noise_of_the_reference_raises_what_is_allowed_for_its_output_alone() -> None:
    a = {name: np.linspace(1, 2, 8).reshape(2, 4) for name in ("noisy", "quiet")}
    b = {name: array + 0.019 * array.max() for name, array in a.items()}
    noise = {"noisy": Noise(0.005), "quiet": Noise(1e-9)}
    one = compare_outputs({"noisy": a["noisy"]}, {"noisy": b["noisy"]}, noise=noise)
    assert one.ok and one.allowed.max_rel_error == NOISE_FACTOR * 0.005 and str(one.allowed) == "2e-02"
    assert "4 times the 5e-03" in one.reason and one.to_dict()["outputs"][0]["noise"]["rel_error"] == 0.005
    both = compare_outputs(a, b, noise=noise)
    assert not both.ok and both.worst is not None and both.worst.name == "quiet"
    assert "'quiet'" in both.reason and "1e-04 is allowed" in both.reason and "noisy" not in both.reason
    larger = {"noisy": a["noisy"] + 0.021 * a["noisy"].max()}
    assert not compare_outputs({"noisy": a["noisy"]}, larger, noise=noise).ok
    # A cosine is lost with the square of the error.
    assert Tolerance(1e-2, 0.999).relaxed(Noise(0.1, 0.9999)).min_cosine == pytest.approx(1 - 16 * 1e-4)
    assert Tolerance(1e-2, 0.999).relaxed(Noise(1e-6, 1.0)) == Tolerance(1e-2, 0.999)


def test_networks_that_return_none_and_hold_scripted_layers() -> None:
    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self.layer = torch.jit.script(nn.Linear(3, 4))

        def forward(self, x: torch.Tensor) -> object:
            return {"scores": self.layer(x), "loss": None, "rest": (None, x)}

    model, x = Some().eval(), torch.randn(2, 3)
    assert [output.name for output in ird.compare(model, model, x).outputs] == ["scores", "rest.1"]
