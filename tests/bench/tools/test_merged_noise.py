"""The tool that measures the error of the merged step's gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from irepdeploy.bench.tools import merged_noise
from irepdeploy.bench.tools.merged_noise import errors_of, rows_of
from irepdeploy.network.nets import build_plain
from irepdeploy.reparam.insert import insert_branches


def network() -> nn.Module:
    torch.manual_seed(0)
    return insert_branches(build_plain("vgg6", input_shape=(1, 8, 8), stages=((4,), (6,))), "acnet")


def test_the_whole_batch_has_no_error_and_fewer_positions_have_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"all": lambda _, positions: positions, "some": lambda *_: 200, "few": lambda *_: 20}
    monkeypatch.setattr(merged_noise, "RULES", rules)
    net = network().double()
    before = copy.deepcopy(net.state_dict())
    batches = [(torch.randn(16, 1, 8, 8).double(), torch.randint(0, 10, (16,))) for _ in range(3)]
    found = errors_of(net, batches)
    assert max(found["all"].values()) < 1e-9
    for name in ("logits", "gradient", "of_noise"):
        assert found["all"][name] < found["some"][name] < found["few"][name]
    assert all(torch.equal(before[name], value) for name, value in net.named_parameters())


def test_of_a_rule_the_last_line_counts() -> None:
    lines = [{"rule": "r", "logits": 0.1, "gradient": 0.2, "of_noise": value} for value in (0.3, 0.4)]
    assert rows_of(lines) == [["r", "10.0", "20", "0.40"]]
