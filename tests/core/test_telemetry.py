"""ONNX Runtime's telemetry is disabled before its first import; otherwise it keeps a database of its use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOWN = "import irepdeploy, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
RUN = "import irepdeploy.board.ort_runner, irepdeploy, onnxruntime"


def run(code: str, home: Path, **more: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), **more}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("given", "kept"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_it_is_off_unless_the_user_has_set_it(given: dict[str, str], kept: str, tmp_path: Path) -> None:
    assert run(SHOWN, tmp_path, **given) == kept


def test_nothing_is_written_in_the_home_folder(tmp_path: Path) -> None:
    run(RUN, tmp_path)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
