"""ONNX files that were exported in training mode."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.training_mode import made_inference
from support.graph_writer import onnx_model

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 3, 5, 5), np.float32)
SCALE, SHIFT, MEAN, VAR = (RNG.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4))


def network(opset: int = 14, returned: str = "", trains: bool = True) -> onnx.ModelProto:
    """Build BatchNormalization and Dropout, which return one of their further outputs too."""
    outputs = ["b", "mean", "var"] if opset >= 14 else ["b", "mean", "var", "saved_mean", "saved_var"]
    attributes = {"training_mode": 1} if opset >= 14 and trains else {}
    inputs, constants = ["b", "ratio", "mode"], {"ratio": np.float32(0.5), "mode": np.array(trains)}
    if opset < 12:
        inputs, constants = ["b"], {}
    nodes = [
        helper.make_node("BatchNormalization", ["x", *"gbmv"], outputs if trains else outputs[:1], "bn", **attributes),
        helper.make_node("Dropout", inputs, ["y", "mask"], "drop"),
    ]
    nodes[0].input[1:] = ["scale", "shift", "m", "v"]
    constants |= {"scale": SCALE, "shift": SHIFT, "m": MEAN, "v": VAR}
    results = {"y": X.shape, **({returned: None} if returned else {})}
    kinds = {"mask": onnx.TensorProto.BOOL}
    return onnx_model(nodes, {"x": X.shape}, results, constants, opset=opset, kinds=kinds)


@pytest.mark.parametrize(
    ("opset", "counted"), [(9, "1 BatchNormalization"), (17, "1 BatchNormalization and 1 Dropout")]
)
def test_it_is_made_inference(opset: int, counted: str) -> None:
    model = network(opset)
    assert (
        made_inference(model, "m.onnx") == f"{counted} in training mode, converted to inference mode as by net.eval()"
    )
    onnx.checker.check_model(model)
    with OrtRunner(model.SerializeToString()) as runner:
        found = runner.infer({"x": X})["y"]
    scale, shift, mean, var = (each.reshape(1, 3, 1, 1) for each in (SCALE, SHIFT, MEAN, VAR))
    assert np.abs(found - ((X - mean) / np.sqrt(var + 1e-5) * scale + shift)).max() < 1e-5
    assert made_inference(model, "m.onnx") == ""


@pytest.mark.parametrize(
    ("opset", "returned", "told"),
    [
        (17, "mean", "BatchNormalization 'bn'.*running statistics"),
        (17, "mask", "Dropout 'drop'.*mask"),
        (9, "var", "BatchNormalization 'bn'"),
    ],
)
def test_what_only_training_computes_is_refused(opset: int, returned: str, told: str) -> None:
    model = network(opset, returned)
    before = model.SerializeToString()
    with pytest.raises(ModelError, match=rf"m\.onnx: {told}.*\(call net\.eval\(\)"):
        made_inference(model, "m.onnx")
    assert model.SerializeToString() == before


def test_inference_stays_as_it_is() -> None:
    for returned in ("", "mask"):
        model = network(17, returned, trains=False)
        before = model.SerializeToString()
        assert made_inference(model, "m.onnx") == "" and model.SerializeToString() == before
