"""RoIAlign against ONNX Runtime's, in train mode and in eval mode, and its choice of maps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from irepdeploy.detect import torchvision_operators
from irepdeploy.detect.roi import RoIAlign

STRIDES = (4, 8)


def by_onnx_runtime(x: Tensor, boxes: Tensor, stride: int, side: int, samples: int, aligned: bool) -> Tensor:
    import onnxruntime

    mode = "half_pixel" if aligned else "output_half_pixel"
    node = helper.make_node(
        "RoiAlign", ["x", "boxes", "index"], ["y"], output_height=side, output_width=side, sampling_ratio=samples,
        spatial_scale=1 / stride, coordinate_transformation_mode=mode,
    )  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [None, 4]),
        helper.make_tensor_value_info("index", TensorProto.INT64, [None]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 16)], ir_version=8
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    count, number = boxes.shape[:2]
    index = np.repeat(np.arange(count), number)
    found = session.run(None, {"x": x.numpy(), "boxes": boxes.reshape(-1, 4).numpy(), "index": index})[0]
    return torch.from_numpy(found).reshape(count, number, x.shape[1], side, side)


def example() -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 5, 64 // stride + 3, 96 // stride, generator=generator) for stride in STRIDES]
    corners = torch.rand(2, 9, 4, generator=generator) * torch.tensor([90.0, 60, 60, 40])
    boxes = torch.cat([corners[..., :2], (corners[..., :2] + 0.3 + corners[..., 2:]).clamp(max=64)], -1)
    boxes[..., 2:] = torch.maximum(boxes[..., 2:], boxes[..., :2])
    boxes[0, 0] = torch.tensor([0.0, 0, 96, 64])
    boxes[0, 1] = torch.tensor([5.0, 5, 5, 5])
    return maps, boxes


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_that_of_onnx_runtime(samples: int, aligned: bool, training: bool) -> None:
    maps, boxes = example()
    if not aligned:
        # Smaller than one cell at the border: it extends beyond the map.
        boxes[1, 0] = torch.tensor([107.9, 75.9, 108.0, 76.0])
    pool = RoIAlign(STRIDES, side=3, samples=samples, finest=14, aligned=aligned).train(training)
    found = pool(maps, boxes)
    levels = pool.levels(boxes)
    assert set(levels.flatten().tolist()) == {0, 1}
    for level, stride in enumerate(STRIDES):
        wanted = by_onnx_runtime(maps[level], boxes, stride, 3, samples, aligned)
        assert torch.allclose(found[levels == level], wanted[levels == level], atol=2e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("samples", [0, 2])
def test_torchvision_gets_the_boxes_of_each_map(samples: int, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def roi_align(x: Tensor, boxes: Tensor, side: int, scale: float, samples: int, aligned: bool) -> Tensor:
        calls.append(scale)
        rows = [by_onnx_runtime(x, box.expand(len(x), 1, 4), round(1 / scale), side, samples, aligned)[int(image), 0]
                for image, box in zip(boxes[:, 0], boxes[:, 1:], strict=True)]  # fmt: skip
        return torch.stack(rows) if rows else x.new_zeros(0, x.shape[1], side, side)

    maps, boxes = example()
    pool = RoIAlign(STRIDES, side=3, samples=samples, finest=14).train(training)
    monkeypatch.setattr(torchvision_operators, "_imported", lambda: None)
    plain = pool(maps, boxes)
    monkeypatch.setattr(torchvision_operators, "_imported", lambda: SimpleNamespace(roi_align=roi_align))
    assert torch.allclose(pool(maps, boxes), plain, atol=2e-5) and calls == [1 / 4, 1 / 8]
    # A half-precision network, and one on the meta device.
    calls.clear()
    pool([each.bfloat16() for each in maps], boxes.bfloat16())
    if samples and not training:
        pool([each.to("meta") for each in maps], boxes.to("meta"))
    assert not calls


@pytest.mark.parametrize("samples", [1, 2])
def test_gradients_do_not_depend_on_the_mode(samples: int) -> None:
    maps, boxes = example()
    gradients = []
    for training in (False, True):
        leaves = [each.clone().requires_grad_() for each in maps]
        pool = RoIAlign(STRIDES, side=3, samples=samples, finest=14).train(training)
        pool(leaves, boxes).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and torch.allclose(one, other, atol=1e-3, rtol=1e-4)


def test_the_map_suits_the_size() -> None:
    pool = RoIAlign((4, 8, 16, 32))
    sides = torch.tensor([1.0, 111, 112, 223, 224, 448, 5000])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1)
    assert pool.levels(boxes).tolist() == [0, 0, 1, 1, 2, 3, 3]
