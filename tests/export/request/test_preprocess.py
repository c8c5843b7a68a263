"""Preprocessing in the graph compared with numpy for every layout, order, padding and grouping, with exact borders."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.export.diagnosis.audit import Asked, audit
from irepdeploy.export.request.preprocess import METADATA, Preprocessing, with_preprocessing
from irepdeploy.export.target.target import target_of
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from support.operator_networks import Call, conv

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def written(model: nn.Module, channels: int = 3, batch: int | None = 2) -> onnx.ModelProto:
    return onnx_from_torch(model.eval(), [TensorSpec("image", (batch, channels, 9, 7))], ["y"])


def images(spec: Preprocessing, channels: int = 3, batch: int = 2) -> np.ndarray:
    shape = (batch, 9, 7, channels) if spec.layout == "nhwc" else (batch, channels, 9, 7)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def first(channels: int, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 6, 3, **kwargs), nn.ReLU(), nn.Conv2d(6, 2, 1))  # type: ignore[arg-type]


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    with OrtRunner(serialized(proto)) as runner:
        return runner.infer({"image": x})["y"]


CONVOLUTIONS = {
    "no padding": {"padding": 0},
    "no bias": {"padding": 0, "bias": False},
    "padded": {"padding": 1, "stride": 2},
    "padded on one side, no bias": {"padding": (0, 2), "bias": False},
    "grouped": {"padding": 0, "groups": 3},
    "grouped and padded": {"padding": 1, "groups": 3},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("fold", [True, False], ids=["folded", "nodes"])
@pytest.mark.parametrize(("layout", "order"), list(itertools.product(("nhwc", "nchw"), ("rgb", "bgr"))))
def test_bytes_in_and_the_same_out(kind: str, fold: bool, layout: str, order: str) -> None:
    spec = Preprocessing(MEAN, STD, layout, order)
    plain = written(first(3, **CONVOLUTIONS[kind]))
    baked = with_preprocessing(plain, spec, fold=fold)
    onnx.checker.check_model(baked, full_check=True)
    x = images(spec)
    expected, found = run(plain, spec(x)), run(baked, x)
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
    border = np.s_[:, :, [0, -1]]
    assert np.abs(found[border] - expected[border]).max() <= 2e-6 * np.abs(expected).max()


def test_the_nodes_give_what_numpy_gives_to_the_bit() -> None:
    spec = Preprocessing(MEAN, STD, "nhwc", "bgr")
    baked = with_preprocessing(written(nn.Identity()), spec)
    x = images(spec)
    shift = np.float32(np.float64(MEAN) * 255).reshape(1, 3, 1, 1)
    scale = np.float32(1 / np.float64(STD) / 255).reshape(1, 3, 1, 1)
    found = run(baked, x)
    assert np.array_equal(found, (x.transpose(0, 3, 1, 2)[:, ::-1].astype(np.float32) - shift) * scale)
    assert np.abs(found - spec(x)).max() <= 4e-7


def test_what_is_folded_is_gone() -> None:
    spec = Preprocessing(MEAN, STD, "nhwc", "bgr")
    whole = with_preprocessing(written(first(3, padding=0)), spec)
    assert [node.op_type for node in whole.graph.node] == ["Cast", "Transpose", "Conv", "Relu", "Conv"]
    border = with_preprocessing(written(first(3, padding=1)), spec)
    assert [node.op_type for node in border.graph.node][:4] == ["Cast", "Transpose", "Sub", "Conv"]
    grouped = with_preprocessing(written(first(3, padding=1, groups=3)), spec)
    assert [node.op_type for node in grouped.graph.node][:5] == ["Cast", "Transpose", "Gather", "Sub", "Conv"]


OTHERS: dict[str, tuple[Callable[[], nn.Module], Preprocessing, int, bool]] = {
    "weights that something else reads are kept": (
        lambda: Call(lambda m, x: m.conv(m.conv(x)), conv=conv(3, 3, 3, padding=1)),
        Preprocessing((0.5,), (0.25,), "nchw"),
        3,
        False,
    ),
    "the input read by something else too keeps its nodes": (
        lambda: Call(lambda m, x: m.conv(x) + x, conv=conv(3, 3, 3, padding=1)),
        Preprocessing(MEAN, STD),
        3,
        True,
    ),
    "one channel": (lambda: first(1), Preprocessing((0.1307,), (0.3081,)), 1, False),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_networks(kind: str) -> None:
    build, spec, channels, nodes = OTHERS[kind]
    plain = written(build(), channels)
    baked = with_preprocessing(plain, spec)
    assert ("Mul" in {node.op_type for node in baked.graph.node}) == nodes
    x = images(spec, channels)
    expected = run(plain, spec(x))
    assert np.abs(run(baked, x) - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("batch", [2, None], ids=["static", "free"])
def test_the_audit_and_the_metadata(tmp_path: Path, batch: int | None) -> None:
    spec = Preprocessing(MEAN, STD, "nhwc", "bgr")
    plain = written(first(3, padding=1), batch=batch)
    before = serialized(plain)
    baked = with_preprocessing(plain, spec)
    assert serialized(plain) == before and serialized(with_preprocessing(plain, spec)) == serialized(baked)
    (tmp_path / "m.onnx").write_bytes(serialized(baked))
    declared = TensorSpec("image", (batch, 9, 7, 3), "uint8")
    audit(tmp_path / "m.onnx", target_of("xavier-jp5"), [declared], ["y"], Asked(dynamic_batch=batch is None))
    found = json.loads({entry.key: entry.value for entry in baked.metadata_props}[METADATA])
    assert (found["layout"], found["order"], found["mean"], found["dtype"]) == ("nhwc", "bgr", list(MEAN), "uint8")
    with pytest.raises(InputError, match="already"):
        with_preprocessing(baked, spec)


def test_words() -> None:
    assert Preprocessing.parse("", MEAN, STD) == Preprocessing(MEAN, STD, "nhwc", "rgb")
    assert Preprocessing.parse("BGR, nchw", MEAN, STD) == Preprocessing(MEAN, STD, "nchw", "bgr")
    for text in ("hwc", "rgb,bgr", "nhwc,gray"):
        with pytest.raises(InputError, match="bake-preprocess"):
            Preprocessing.parse(text, MEAN, STD)


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        ((), (), "as many finite means as stds"),
        ((0.5,), (0.1, 0.2), "as many finite means as stds"),
        ((0.5,), (0.0,), "above 0"),
        ((np.nan,), (1.0,), "finite"),
    ],
)
def test_numbers_that_are_none(mean: tuple[float, ...], std: tuple[float, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Preprocessing(mean, std)


def test_inputs_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="3 means and order rgb do not fit a network of 1 channels"):
        with_preprocessing(written(first(1), 1), Preprocessing(MEAN, STD))
    with pytest.raises(InputError, match="order bgr"):
        with_preprocessing(written(first(1), 1), Preprocessing((0.5,), (0.5,), order="bgr"))
    flat = written(first(3))
    del flat.graph.input[0].type.tensor_type.shape.dim[3]
    with pytest.raises(InputError, match="one float32 input of four dimensions, got 0"):
        with_preprocessing(flat, Preprocessing(MEAN, STD))
