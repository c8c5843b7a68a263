"""The examples of searches run unchanged."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.dataset_files import write_fashion_mnist

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`example(name)`: the names of an example, which runs in a folder of its own."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    yield lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))
    sys.modules.pop("segmentation", None)


@pytest.mark.parametrize("name", [pytest.param("segmentation", marks=pytest.mark.slow), "own_loop"])
def test_an_example(name: str, example: Any, tmp_path: Path) -> None:
    example(name)["main"](evolutions=1)
    assert list(tmp_path.rglob("model.onnx"))


# Lightning warns about few workers and about deprecations.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_the_example_with_lightning(example: Any, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning", reason="pip install 'irepdeploy[examples]'")
    best = example("lightning_loop")["main"](evolutions=2)
    assert best.count and list(tmp_path.rglob("model.onnx"))


@pytest.mark.slow
def test_the_example_with_timm(tmp_path: Path) -> None:
    """Runs with the interpreter of `make ecosystem`, which has timm."""
    python = EXAMPLES.parent / "build" / "ecosystem" / "bin" / "python"
    if not python.exists():
        pytest.skip("timm is not installed here: `make ecosystem` installs it")
    root = write_fashion_mnist(tmp_path, train=400, test=40)
    code = (
        "import timm_fashion_mnist as example; example.main('test_resnet', root=%r, verify=False, val=100,"
        " evolutions=1, epochs=1)"
    )
    path = os.pathsep.join(filter(None, [str(EXAMPLES), os.environ.get("PYTHONPATH")]))
    end = subprocess.run(
        [python, "-c", code % str(root)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 0 and "branches, accuracy by shared weights" in end.stdout, end.stderr
    assert "test accuracy" in end.stdout and list(tmp_path.rglob("model.onnx"))


def test_no_pixel_is_in_two_parts_of_the_photographs(example: Any) -> None:
    names = example("segmentation")
    # Of two sizes; a pixel's value is the number of its column.
    columns = [np.broadcast_to(np.arange(width)[None, :, None], (60, width, 3)) for width in (451, 640)]
    names["cut"].__globals__["pictures"] = lambda: columns
    for picture in range(2):
        ranges = []
        for part in ("train", "val", "test"):
            found = names["cut"](part, 200, seed=0)[picture::2] * 0.25 + 0.45
            assert found.shape[1:] == (3, 16, 16)
            ranges.append((found.min() * 255, found.max() * 255))
        assert ranges[0][1] + 1 < ranges[1][0] and ranges[1][1] + 1 < ranges[2][0]


def test_the_photographs_are_real(example: Any) -> None:
    names = example("segmentation")
    assert len(names["pictures"]()) in (2, 4) and all(each.dtype == np.uint8 for each in names["pictures"]())
    images, levels = names["crops"]("val", 40)
    assert images.shape == (40, 3, 16, 16) and set(levels.unique().tolist()) == {0, 1, 2, 3}
