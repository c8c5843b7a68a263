"""TensorRT is found, and the builder assembled for tests is never mistaken for it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from irepdeploy.board import trt_library
from irepdeploy.board.trt_library import (
    ASSEMBLED_ENVIRONMENT,
    assembled_folder,
    forget_logger,
    installed_version,
    lacks_gpu,
    load_tensorrt,
    logged,
    logger_of,
)
from irepdeploy.errors import InputError, MissingError
from support.fake_tensorrt import FakeTensorrt, Severity

MARKER = {"tensorrt_rtx": "1.7.1.116", "package": "some_bindings"}


@pytest.fixture
def assembled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like that of `make trt`, with bindings of another version than the builder's."""
    folder = tmp_path / "with space"
    package = folder / "some_bindings"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '11.4.0.106'\n")
    (folder / "assembled.json").write_text(json.dumps(MARKER))
    monkeypatch.setenv(ASSEMBLED_ENVIRONMENT, str(folder))
    forget("some_bindings", monkeypatch)
    return folder


def forget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `name` be imported again, now and after the test."""
    monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    del sys.modules[name]


def module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    forget(name, monkeypatch)


def test_assembled_is_tensorrt_rtx(assembled: Path) -> None:
    library = load_tensorrt("tensorrt_rtx")
    assert (library.flavour, library.version, library.assembled) == ("tensorrt_rtx", "1.7.1.116", True)
    assert library.title == "TensorRT-RTX 1.7.1.116 (assembled for tests)"
    assert str(assembled) not in sys.path


def test_assembled_is_never_tensorrt(assembled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="TensorRT is not installed"):
        load_tensorrt("tensorrt")


def test_assembled_under_the_name_of_tensorrt_is_refused(assembled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        module(assembled / "some_bindings", name, "__version__ = '11.4.0.106'", monkeypatch)
        with pytest.raises(MissingError, match="assembled for tests"):
            load_tensorrt(name)


def test_what_is_installed_comes_first(assembled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(tmp_path, "tensorrt_rtx", "__version__ = '1.8.0.5'", monkeypatch)
    library = load_tensorrt("tensorrt_rtx")
    assert (library.version, library.assembled) == ("1.8.0.5", False)


def test_one_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "raise ImportError('libnvinfer.so.10: cannot open shared object file')"
    module(tmp_path, "tensorrt", text, monkeypatch)
    with pytest.raises(MissingError, match=r"installed but cannot be loaded: libnvinfer\.so\.10.*doctor"):
        load_tensorrt("tensorrt")


def test_none_and_no_such_flavour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_library.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(trt_library, "assembled_folder", lambda: None)
    with pytest.raises(MissingError, match=r"TensorRT-RTX is not installed .*make trt"):
        load_tensorrt("tensorrt_rtx")
    with pytest.raises(InputError, match="one of tensorrt, tensorrt_rtx"):
        load_tensorrt("tensor-rt")


def test_on_a_jetson_nothing_is_installed_by_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_library.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(trt_library.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(trt_library.os.path, "exists", lambda path: True)
    with pytest.raises(MissingError, match="JetPack") as caught:
        load_tensorrt("tensorrt")
    assert "pip" not in caught.value.line


def test_installed_version(assembled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version("tensorrt_rtx") == "1.7.1.116"
    assert "some_bindings" not in sys.modules
    if importlib.util.find_spec("tensorrt") is None:
        assert installed_version("tensorrt") is None
    module(tmp_path, "tensorrt", "print('noise'); __version__ = '10.3.0.26'", monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert installed_version("tensorrt") == "10.3.0.26"
    assert "tensorrt" not in sys.modules
    module(tmp_path, "tensorrt", "import os; os.abort()", monkeypatch)
    with pytest.raises(MissingError, match="installed but cannot be loaded: exit code -6"):
        installed_version("tensorrt")
    with pytest.raises(InputError, match="one of tensorrt, tensorrt_rtx"):
        installed_version("trt")


def test_the_environment_names_a_folder_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASSEMBLED_ENVIRONMENT, str(tmp_path))
    with pytest.raises(MissingError, match=r"no assembled builder .*make trt"):
        assembled_folder()
    (tmp_path / "assembled.json").write_text("{}")
    with pytest.raises(MissingError):
        assembled_folder()


def test_logger_keeps_everything() -> None:
    kept: list[tuple[str, str]] = []
    trt = FakeTensorrt("8.5.2.2")
    keep = lambda *message: kept.append(message)  # noqa: E731
    logger_of(trt, keep).log(Severity.ERROR, "no")
    assert kept == [("ERROR", "no")]
    # There is one logger per process, and each listener receives its messages until it stops.
    also: list[tuple[str, str]] = []
    hear = lambda *message: also.append(message)  # noqa: E731
    assert logger_of(trt, hear) is logger_of(trt, lambda *message: None)
    forget_logger(trt, keep)
    forget_logger(trt, keep)
    logger_of(trt, hear).log(Severity.INFO, "yes")
    assert kept == [("ERROR", "no")] and set(also) == {("INFO", "yes")}


def test_logged() -> None:
    messages = [("ERROR", "a\n b"), ("WARNING", "w"), ("INTERNAL_ERROR", "c"), ("ERROR", "a b"), ("VERBOSE", "v")]
    assert logged(messages) == ["a b", "c"]
    assert logged(messages, "WARNING") == ["w"]
    assert lacks_gpu(["x", "CUDA initialization failure with error: 35"])
    assert not lacks_gpu(["cudaError 350", "out of memory"])


@pytest.mark.trt
def test_the_real_one_starts_and_says_its_own_version() -> None:
    code = (
        "from irepdeploy.board.trt_library import load_tensorrt\n"
        "library = load_tensorrt('tensorrt_rtx')\n"
        "trt = library.module\n"
        "trt.Builder(trt.Logger()).create_builder_config()\n"
        "import ctypes, os\n"
        "loaded = ctypes.CDLL(os.path.join(os.path.dirname(trt.__file__), 'libnvinfer.so.11'))\n"
        "number = loaded.getInferLibVersion()\n"
        "parts = (number // 10000, number // 100 % 100, number % 100, loaded.getInferLibBuildVersion())\n"
        "print(library.version, '.'.join(map(str, parts)))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    said, own = done.stdout.split()[-2:]
    assert said == own
