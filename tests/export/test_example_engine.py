"""The examples that run an engine: the Python one on fakes, as no engine can run here; the C++ one by what it reads."""

from __future__ import annotations

import ast
import ctypes
import dataclasses
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from irepdeploy.export.engine import build_engine
from irepdeploy.runtime.sidecar import Sidecar
from irepdeploy.testing.fake_cudart import FakeCudart
from irepdeploy.testing.fake_tensorrt import FakeTensorrt

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Build an engine with a fake TensorRT, change something, run the example on it."""
    takes = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (2, 3))
    gives = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (2, 2))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [takes], [gives])
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tensorrt.py").write_text(
        "from irepdeploy.testing.fake_tensorrt import FakeTensorrt\nglobals().update(vars(FakeTensorrt('8.5.2.2')))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
    engine = tmp_path / "model.engine"
    build_engine(onnx.helper.make_model(graph).SerializeToString(), engine, flavour="tensorrt")
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))

    def go(version: str = "8.5.2.2", cut: int = 0, capability: str | None = None) -> None:
        trt = FakeTensorrt(version)
        trt.Logger = lambda severity: SimpleNamespace(log=print)
        trt.Logger.WARNING = None
        trt.nptype = lambda dtype: np.float32
        monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
        monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeCudart())
        monkeypatch.setattr(sys, "argv", ["run_engine.py", str(engine), str(tmp_path / "x.npy")])
        if cut:
            engine.write_bytes(engine.read_bytes()[:-cut])
        if capability is not None:
            beside = Path(f"{engine}.json")
            beside.write_text(
                beside.read_text().replace('"compute_capability": null', f'"compute_capability": "{capability}"')
            )
        runpy.run_path(str(EXAMPLES / "run_engine.py"))

    return go


def test_python_runs_it(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    run(capability="8.0")
    # Sums of 0 + 1 + 2 and 3 + 4 + 5, times 1 and 2.
    assert capsys.readouterr().out == "y (2, 2) [ 3.  6. 12. 24.]\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cut": 1}, "truncated or changed .*again: irepdeploy export"),
        ({"version": "8.6.1.6"}, r"built with TensorRT 8\.5\.2\.2, here is 8\.6\.1\.6"),
        ({"capability": "7.2"}, r"built for compute capability 7\.2, here is 8\.0"),
    ],
)
def test_python_holds_it_against_its_sidecar(run: Callable[..., None], change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SystemExit, match=reason):
        run(**change)


def test_python_is_3_8() -> None:
    ast.parse((EXAMPLES / "run_engine.py").read_text(), feature_version=(3, 8))


def test_c_plus_plus_reads_what_a_sidecar_has() -> None:
    read = set(re.findall(r'field\(sidecar, "(\w+)"\)', (EXAMPLES / "run_engine.cpp").read_text()))
    assert {"command", "compute_capability", "size_bytes", "tensorrt_version"} == read
    assert read <= {item.name for item in dataclasses.fields(Sidecar)}
