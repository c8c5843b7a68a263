"""Fixtures of the export tests."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F

from irepdeploy.board.runner import TensorSpec
from irepdeploy.data.digits import digits
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch
from irepdeploy.network.nets import build_plain
from support.networks import random_network, small_resnet


@pytest.fixture(scope="session")
def vgg6() -> onnx.ModelProto:
    return onnx_from_torch(random_network(), [TensorSpec("input", (1, 1, 16, 16))], ["logits"])


@pytest.fixture(scope="session")
def residual() -> onnx.ModelProto:
    spec = TensorSpec("input", (1, 3, 16, 16))
    return onnx_from_torch(small_resnet(), [spec], ["logits"], metadata={"key": "value"})


@pytest.fixture(scope="session")
def trained() -> onnx.ModelProto:
    """A small VGG trained on 400 digits for a second: 95 to 97 % on the search-validation set."""
    data = digits(train=400, val=400).train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_plain("vgg6", stages=((8, 8), (16, 16), (32, 32)))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8 * 12)
        for _ in range(8):
            for index in torch.randperm(len(data))[: 12 * 32].split(32):
                optimizer.zero_grad()
                F.cross_entropy(model(data.images[index]), data.labels[index]).backward()
                optimizer.step()
                schedule.step()
    return onnx_from_torch(model.eval(), [TensorSpec("input", (1, 1, 16, 16))], ["logits"])
