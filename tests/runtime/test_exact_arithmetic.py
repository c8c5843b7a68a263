"""Comparisons run without TF32, and leave the user's settings unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from support.networks import random_network


@pytest.fixture
def restored() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def precisions() -> tuple[str, str]:
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.mark.parametrize("conv", [True, False])
@pytest.mark.parametrize("matmul", [True, False])
def test_settings_are_put_back(conv: bool, matmul: bool, restored: None) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
    with exact_arithmetic():
        assert precisions() == ("ieee", "ieee")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (conv, matmul)
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        raise ZeroDivisionError
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (conv, matmul)


class Watcher(nn.Conv2d):
    """Records the precision under which it ran."""

    seen: list[tuple[str, str]]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(precisions())
        return super().forward(x)


def test_fuse_compare_and_probe_run_without_it() -> None:
    Watcher.seen = []
    own = nn.Sequential(Watcher(2, 2, 3)).eval()
    ird.compare(own, own, torch.randn(1, 2, 8, 8))
    count = len(Watcher.seen)
    ird.fuse_probe(own, where=Watcher)
    assert count and len(Watcher.seen) > count and set(Watcher.seen) == {("ieee", "ieee")}


def test_the_proof_of_a_fuse_runs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_network("vgg6", "repvgg").eval()
    seen = []
    true = torch.nn.functional.conv2d
    monkeypatch.setattr("irepdeploy.reparam.branches.F.conv2d", lambda *args: seen.append(precisions()) or true(*args))
    ird.fuse(net)
    assert seen and set(seen) == {("ieee", "ieee")}
