"""The check of the captured forward pass, with a fake one, since CUDA graphs need a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from irepdeploy.errors import CheckFailed
from irepdeploy.search.suites import captured_check
from irepdeploy.search.suites.captured_check import check_captured


@pytest.mark.parametrize(("wrong", "said"), [(0.0, ""), (0.1, r"1\.0e-01"), (float("nan"), "nan")])
def test_a_captured_pass_that_differs_once_fails(wrong: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0

    def captured(net: Any) -> Any:
        def forward(images: Any) -> Any:
            nonlocal passes
            passes += 1
            logits = net(images)
            return logits + wrong * logits.abs().max() if passes == 3 else logits

        return forward

    monkeypatch.setattr(captured_check, "CapturedForward", captured)
    if not said:
        assert check_captured(torch.device("cpu"))[1] == {"float32": 0.0, "bfloat16": 0.0}
        return
    with pytest.raises(CheckFailed, match=f"float32: captured and eager logits differ by {said}"):
        check_captured(torch.device("cpu"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_without_a_gpu_it_is_skipped(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert captured_check.main(["--device", device]) == 0
    assert '"skipped"' in capsys.readouterr().out
