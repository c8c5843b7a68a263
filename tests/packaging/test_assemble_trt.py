"""`make trt` is idempotent, fails with one line, and writes a library without a compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

import pytest

from irepdeploy.board.trt_library import ASSEMBLED_ENVIRONMENT, assembled_folder

SCRIPT = Path(__file__).parents[1] / "assemble_trt.py"
X86_64 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the library is for Linux on x86-64"
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("assemble_trt", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@X86_64
def test_the_stub_is_a_library(script: ModuleType, tmp_path: Path) -> None:
    for number, symbol in enumerate(("f", "initLibNvInferPlugins", "a_name_that_is_longer_than_the_others")):
        path = tmp_path / f"libstub{number}.so.11"
        path.write_bytes(script.stub_library(path.name, symbol))
        library = ctypes.CDLL(str(path))
        function = getattr(library, symbol)
        function.restype = ctypes.c_uint64
        # The whole register, not only the byte of a bool.
        assert function(None, b"") == 1
        with pytest.raises(AttributeError):
            library.another  # noqa: B018


@pytest.mark.trt
def test_a_second_time_does_nothing(script: ModuleType) -> None:
    folder = assembled_folder()
    assert folder is not None
    marker = json.loads(Path(folder, "assembled.json").read_text())
    if marker["python"] != ".".join(map(str, sys.version_info[:2])):
        pytest.skip(f"assembled for Python {marker['python']}")
    before = {path: path.lstat().st_mtime_ns for path in Path(folder).rglob("*.so*")}
    assert script.assemble(Path(folder)).endswith("already has it")
    assert before == {path: path.lstat().st_mtime_ns for path in Path(folder).rglob("*.so*")} != {}


def test_names_agree(script: ModuleType) -> None:
    assert script.ENVIRONMENT == ASSEMBLED_ENVIRONMENT


def test_another_machine_is_one_line(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.platform, "machine", lambda: "aarch64")
    with pytest.raises(SystemExit, match="Linux on x86_64, not linux on aarch64"):
        script.assemble(tmp_path)
    assert list(tmp_path.iterdir()) == []


@X86_64
def test_a_failed_download_is_one_line(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "BINDINGS", ("tensorrt-cu13-bindings", "0.0.0"))
    monkeypatch.setattr(script.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(
        "#!/bin/sh\necho 'WARNING: first' >&2\necho 'ERROR: no such version' >&2\nexit 1\n"
    )
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(SystemExit) as caught:
        script.assemble(tmp_path / "trt")
    assert caught.value.code == ("make trt: cannot download tensorrt-cu13-bindings==0.0.0: ERROR: no such version")
    assert not (tmp_path / "trt" / "assembled.json").exists()


@X86_64
def test_an_old_one_is_kept_until_the_new_one_starts(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "tensorrt_bindings"
    old.mkdir()
    (old / "__init__.py").write_text("old = True")

    def unpacked(place: Path, *wheels: Path) -> Path:
        (place / "tensorrt_bindings").mkdir()
        (place / "tensorrt_bindings" / "__init__.py").write_text("raise ImportError('libsomething.so.1')")
        return place / "tensorrt_bindings"

    monkeypatch.setattr(script, "_wheel", lambda *args: tmp_path)
    monkeypatch.setattr(script, "_unpacked", unpacked)
    with pytest.raises(SystemExit, match=r"it does not start: ImportError: libsomething\.so\.1"):
        script.assemble(tmp_path)
    assert (old / "__init__.py").read_text() == "old = True"
    assert not list(tmp_path.glob(".assemble-*"))
