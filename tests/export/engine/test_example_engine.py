"""The examples that run an engine, on fakes, as no engine can run here; for C++ these are `fake_headers`."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from irepdeploy.board.sidecar import sidecar_path
from irepdeploy.export.engine.engine import build_engine
from irepdeploy.files import write_json
from support.engine_sidecar import make_sidecar
from support.fake_cudart import FakeCudart
from support.fake_tensorrt import FakeTensorrt
from support.graph_writer import onnx_model

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Build an engine with a fake TensorRT, change something, run the example on it."""
    model = onnx_model([onnx.helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)}, {"y": (2, 2)})
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tensorrt.py").write_text(
        "from support.fake_tensorrt import FakeTensorrt\nglobals().update(vars(FakeTensorrt('8.5.2.2')))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
    engine = tmp_path / "model.engine"
    build_engine(model.SerializeToString(), engine, flavour="tensorrt")

    def go(
        version: str = "8.5.2.2",
        cut: int = 0,
        capability: str | None = None,
        shape: tuple[int, ...] = (2, 3),
        memory: int = 1 << 20,
        loads: str | None = None,
        cuda: Any = None,
    ) -> None:
        np.save(tmp_path / "x.npy", np.arange(float(np.prod(shape))).reshape(shape))
        trt = FakeTensorrt(version, loads=loads)
        trt.Logger = lambda severity: SimpleNamespace(log=print)
        trt.Logger.WARNING = None
        monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
        monkeypatch.setattr(ctypes, "CDLL", cuda or (lambda name: FakeCudart(memory=memory)))
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


def test_python_finds_the_runtime_of_pip_that_fits_the_driver(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, version in (("cu13", 13), ("cuda_runtime", 12)):
        (tmp_path / "nvidia" / folder / "lib").mkdir(parents=True)
        (tmp_path / "nvidia" / folder / "lib" / f"libcudart.so.{version}").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(name: str) -> FakeCudart:
        if not name.startswith(str(tmp_path)):
            raise OSError(name)
        return FakeCudart(runtime=13000 if name.endswith("13") else 12080)

    run(cuda=load)
    assert "[ 3.  6. 12. 24.]" in capsys.readouterr().out
    for each in tmp_path.glob("nvidia/cuda_runtime/lib/*"):
        each.unlink()
    with pytest.raises(SystemExit, match="no CUDA runtime library here that finds a GPU and fits its driver"):
        run(cuda=load)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cut": 1}, "engine_sha256 .* in its sidecar, .* here; build it again: irepdeploy export"),
        (
            {"version": "8.6.1.6"},
            r"model\.engine: tensorrt_version 8\.5\.2\.2 in its sidecar, 8\.6\.1\.6 here; build it",
        ),
        ({"capability": "7.2"}, r"model\.engine: compute_capability 7\.2 in its sidecar, 8\.0 here; build it again"),
    ],
)
def test_python_holds_it_against_its_sidecar(run: Callable[..., None], change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SystemExit, match=reason):
        run(**change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": (9, 3)}, r"x cannot be of shape \(9, 3\)"),
        ({"memory": 8}, "cudaMallocManaged failed with CUDA error 2"),
        ({"loads": "wrong"}, "TensorRT refuses it"),
    ],
)
def test_python_says_what_fails(run: Callable[..., None], change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SystemExit, match=reason):
        run(**change)


def test_python_is_3_8() -> None:
    ast.parse((EXAMPLES / "run_engine.py").read_text(), feature_version=(3, 8))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, built on the fake headers."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    built = tmp_path_factory.mktemp("program") / "run_engine"
    source, headers = EXAMPLES / "run_engine.cpp", Path(__file__).parent / "fake_headers"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([compiler, "-std=c++17", *warnings, f"-I{headers}", str(source), "-o", str(built)], check=True)
    return built


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine for the fake headers, with a real sidecar."""
    path = tmp_path / "a model's ü.engine"
    path.write_bytes(b"engine")
    changes = {"engine_sha256": "1", "gpu": 'A "GPU", fake', "settings": {"size_bytes": 7}}
    described = make_sidecar(b"engine", command="irepdeploy export 'net, a.pt' --trt", **changes)
    write_json(sidecar_path(path), described.to_dict())
    return path


def run_program(program: Path, *arguments: object) -> tuple[int, str, str]:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_c_plus_plus_runs_it(program: Path, engine: Path) -> None:
    assert run_program(program, engine) == (0, "y 1 3\n", "")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("size_bytes", 60, "size_bytes 60 in its sidecar, 6 here"),
        ("tensorrt_version", "10.3.1.26", "tensorrt_version 10.3.1.26 in its sidecar, 10.3.0 here"),
        ("tensorrt_version", "10.3", "tensorrt_version 10.3 in its sidecar, 10.3.0 here"),
        ("compute_capability", "7.2", "compute_capability 7.2 in its sidecar, 8.0 here"),
    ],
)
def test_c_plus_plus_holds_it_against_its_sidecar(
    program: Path, engine: Path, key: str, value: object, reason: str
) -> None:
    sidecar = Path(sidecar_path(engine))
    described = json.loads(sidecar.read_text())
    write_json(sidecar, {**described, key: value})
    code, output, errors = run_program(program, engine)
    assert (code, output) == (2, "")
    assert errors == f"{engine}: {reason}; build it again: irepdeploy export 'net, a.pt' --trt\n"
    # Values unknown to the builder are not compared.
    write_json(sidecar, {**described, "compute_capability": None})
    assert run_program(program, engine)[0] == 0


def test_c_plus_plus_says_what_fails(program: Path, engine: Path) -> None:
    assert run_program(program) == (2, "", "run_engine model.engine\n")
    assert run_program(program, "missing") == (2, "", "missing: cannot be read\n")
    engine.write_bytes(b"enginE")
    assert run_program(program, engine) == (2, "", f"no engine\n{engine}: TensorRT refuses it; its reason is above\n")
    Path(sidecar_path(engine)).write_text("{}\n")
    assert run_program(program, engine)[2].startswith("the sidecar has no ")
