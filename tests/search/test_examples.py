"""The examples of searches run as they stand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", [pytest.param("segmentation", marks=pytest.mark.slow), "own_loop"])
def test_an_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](evolutions=1)
    sys.modules.pop("segmentation", None)
    assert list(tmp_path.rglob("model.onnx"))
