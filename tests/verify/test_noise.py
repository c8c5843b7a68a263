"""Noise of a source: measured, printed, and never exceeded by the tolerance of a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from irepdeploy.board.comparison import NOISE_FACTOR, compare_outputs
from irepdeploy.board.runner import TensorSpec
from irepdeploy.cli import main
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.equivalence import verify_models
from irepdeploy.verify.noise import noise_between, nudged
from support.graph_writer import onnx_model

Capture = pytest.CaptureFixture[str]


def small_probabilities(bias: float = -15.5) -> onnx.ModelProto:
    """Build a network with outputs so small that rounding before the sigmoid affects the first digits."""
    rng = np.random.default_rng(0)
    constants = {
        "w": 0.2 * rng.standard_normal((8, 3, 3, 3), np.float32),
        "v": 0.2 * rng.standard_normal((8, 3, 1, 1), np.float32),
        "head": 0.05 * rng.standard_normal((1, 8, 1, 1), np.float32),
        "bias": np.array([bias], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r"]),
        helper.make_node("Conv", ["r", "head", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["y"]),
    ]
    return onnx_model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 1, 8, 8)}, constants)


def test_floats_move_by_one_unit_in_the_last_place_and_integers_stay() -> None:
    specs = [TensorSpec("x", (None, 3)), TensorSpec("h", (None, 2), "float16"), TensorSpec("i", (None, 2), "int64")]
    ones = {"x": np.ones((40, 3), np.float32), "h": np.ones((40, 2), np.float32), "i": np.ones((40, 2), np.int64)}
    moved = nudged(ones, specs)
    assert isinstance(moved, dict)
    assert set(moved["x"].ravel()) == {np.float32(1 - 2**-24), np.float32(1 + 2**-23)}
    assert set(moved["h"].ravel()) == {np.float16(1 - 2**-11), np.float16(1 + 2**-10)}
    assert np.array_equal(moved["i"], ones["i"])
    assert nudged({"i": ones["i"]}, specs[2:]) is None


def test_what_cannot_be_told_is_not_noise() -> None:
    ones, zeros = np.ones((1, 2)), np.zeros((1, 2))
    others = {"nudged": {"a": ones, "b": ones * np.nan, "c": zeros}, "unoptimized": {"a": ones + 0.5}}
    found = noise_between(dict.fromkeys("abc", ones), others)
    assert list(found) == ["a"] and (found["a"].rel_error, found["a"].nudged) == (0.5, 0.0)


def test_an_exact_collapse_is_as_close_as_the_file_is_to_itself(tmp_path: Path, capsys: Capture) -> None:
    onnx.save(small_probabilities(), tmp_path / "m.onnx")
    assert main(["export", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "o")]) == 0
    out = capsys.readouterr().out
    assert "own noise" in out and "since the source differs from itself by" in out.replace("\n", " ")
    (hop,) = Certificate.load(tmp_path / "o/certificate.json").hops
    assert hop.noise is not None and hop.noise.unoptimized is not None and hop.noise.nudged is not None
    assert hop.allowed == NOISE_FACTOR * hop.noise.rel_error > hop.stated.max_rel_error == 1e-4
    assert 1e-4 < hop.error <= hop.allowed
    # Checked again later, the noise is measured again.
    given = [str(tmp_path / "o/model.onnx"), "--certificate", str(tmp_path / "o/certificate.json")]
    assert main(["verify", *given]) == 0
    assert main(["verify", str(tmp_path / "m.onnx"), given[0]]) == 0
    assert "own noise" in capsys.readouterr().out


def test_the_noise_of_the_other_model_allows_nothing(tmp_path: Path) -> None:
    onnx.save(small_probabilities(0.0), tmp_path / "quiet.onnx")
    onnx.save(small_probabilities(), tmp_path / "noisy.onnx")
    found = verify_models(tmp_path / "quiet.onnx", tmp_path / "noisy.onnx")
    assert not found.ok and found.comparison.allowed.max_rel_error == 1e-4


def test_the_noise_of_a_torch_network_is_that_of_other_kernels_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 4, 3)).eval()
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12), np.float32)
    (own,) = verify_models(net, net, x).comparison.outputs
    assert own.noise is not None and own.noise.unoptimized is not None and 0 < own.noise.unoptimized < 1e-5


def _saved(path: Path, nodes: list[onnx.NodeProto], **constants: float) -> Path:
    arrays = {name: np.array([value], np.float32) for name, value in constants.items()}
    onnx.save(onnx_model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 3, 4, 4)}, arrays), path)
    return path


@pytest.mark.parametrize("kind", ["draws numbers", "is chaotic"])
def test_a_model_that_is_not_close_to_itself_is_the_same_as_no_other(kind: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "k"], ["s"]), helper.make_node("Sin", ["s"], ["y"])]
    if kind == "draws numbers":
        nodes = [
            helper.make_node("RandomNormalLike", ["x"], ["s"], scale=3.0),
            helper.make_node("Mul", ["s", "k"], ["y"]),
        ]
    noisy = _saved(tmp_path / "noisy.onnx", nodes, k=1e7)
    other = _saved(tmp_path / "other.onnx", [helper.make_node("Mul", ["x", "k"], ["y"])], k=-3.0)
    found = verify_models(noisy, other)
    assert not found.ok and "with itself" in found.comparison.reason


def test_large_noise_of_a_few_numbers_allows_them_but_not_another_output() -> None:
    rng = np.random.default_rng(0)
    a, other = rng.standard_normal((2, 4, 50))
    moved = a.copy()
    moved[0, 0] += a.max()
    noise = noise_between({"y": a}, {"nudged": {"y": moved}})
    assert compare_outputs({"y": a}, {"y": moved}, noise=noise).ok
    assert not compare_outputs({"y": a}, {"y": other}, noise=noise).ok
