from __future__ import annotations

import pytest
import torch

from irepdeploy.errors import MissingError
from irepdeploy.search.execution.device import choose_device


def test_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(MissingError, match=r"device=cuda.*doctor"):
        choose_device("cuda")


@pytest.mark.parametrize("deterministic", [False, True])
def test_cuda_where_it_is(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = choose_device("auto", deterministic=deterministic)
    assert device == "cuda"
    assert asked == ([True] if deterministic else [])
    assert torch.backends.cudnn.benchmark is not deterministic
