"""The archive: the same bytes for the same sources, and Python 3.8 with numpy is all that it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest

from irepdeploy import __version__
from irepdeploy.jetson.agent_archive import build_agent, carried_modules

_HEAVY = ("torch", "onnx", "onnxruntime", "pydantic", "typer", "rich", "yaml", "sklearn", "matplotlib")


def test_the_same_bytes_again(archive: Path) -> None:
    build_agent.cache_clear()
    again = build_agent()
    assert again.content == archive.read_bytes()
    assert again.name == archive.name == f"irepdeploy-agent-{again.sha256[:12]}.pyz"
    entries = zipfile.ZipFile(archive).infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    names = {entry.filename for entry in entries} - {"__main__.py", f"irepdeploy-{__version__}.dist-info/METADATA"}
    assert len(names) == len(carried_modules()) == len(entries) - 2


def bare(archive: Path, tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the archive, numpy and the standard library, and nothing else to import."""
    site = tmp_path / "site"
    site.mkdir()
    for name in ("numpy", "numpy.libs"):
        source = Path(numpy.__file__).parent.parent / name
        if source.exists():
            (site / name).symlink_to(source)
    prelude = f"import sys; sys.path[:0] = [{str(archive)!r}, {str(site)!r}]; sys.argv = ['agent']\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", prelude + code], capture_output=True, text=True, check=False
    )


def test_every_module_with_numpy_alone(archive: Path, tmp_path: Path) -> None:
    modules = [name for name in carried_modules() if name != "irepdeploy.jetson.agent"]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += f"assert not set({_HEAVY!r}) & set(sys.modules)\n"
    code += (
        f"import irepdeploy; assert '.pyz' in irepdeploy.__file__; assert irepdeploy.__version__ == {__version__!r}\n"
    )
    for name in _HEAVY:
        code += f"try:\n    import {name}\nexcept ImportError: pass\nelse: raise SystemExit('{name} is here')\n"
    done = bare(archive, tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_board_without_numpy_can_still_be_looked_at(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-B", str(archive), "check", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout.splitlines()[-1])["value"]
    # The processes that it starts see what any process here sees, so only its own imports are looked at.
    assert value["python"] and "system" in value


def python38() -> str:
    """A Python 3.8 of this machine."""
    found = [Path(path) / "python3.8" for path in os.environ.get("PATH", "").split(os.pathsep)]
    found += sorted(Path.home().glob(".pyenv/versions/3.8*/bin/python3.8"))
    for path in found:
        if path.exists() and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(path)
    pytest.skip("no Python 3.8 here")


def test_a_real_python_38(agent: Any, board: Any) -> None:
    agent.python, agent.board = python38(), board
    value = agent.ask("check", {}).value
    assert value["python"].startswith("3.8.") and value["jetson"]
    # Every module, up to its import of numpy if that is missing.
    code = "import sys, importlib\nsys.path.insert(0, sys.argv[1])\n"
    code += f"for name in {list(carried_modules())!r}:\n    try:\n        importlib.import_module(name)\n"
    code += "    except ImportError as error:\n        assert error.name == 'numpy', (name, error)\n"
    done = subprocess.run([agent.python, "-c", code, str(agent.archive)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7"])
def test_an_older_python_says_so(archive: Path, version: str) -> None:
    found = [*Path.home().glob(f".pyenv/versions/{version}*/bin/python"), shutil.which(f"python{version}")]
    for python in filter(None, found):
        done = subprocess.run([python, str(archive), "check"], capture_output=True, text=True, check=False)
        if done.returncode == 3:
            assert json.loads(done.stdout)["what"] == f"the agent needs Python 3.8 or later, got {version}"
            return
        assert done.returncode == 127
    # Its first lines are any Python's: that much can be seen here.
    import ast

    ast.parse(zipfile.ZipFile(archive).read("__main__.py"), feature_version=(3, 4))
