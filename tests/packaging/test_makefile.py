"""The Makefile's main commands; CI runs the same ones as developers."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
NEEDS_MAKE = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def test_ci_calls_only_make_targets() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    commands = re.findall(r"run: *(.*)", workflow)
    script = (ROOT / ".ci/run").read_text().splitlines()
    commands += [line.strip() for line in script if re.match(r"\s*make\b", line)]
    assert len(commands) >= 6
    for command in commands:
        assert re.fullmatch(r"make [a-z-]+", command), command
        assert command.split()[1] in TARGETS | {"trt"}, command
    assert "set -euo pipefail" in script


def test_pre_commit_uses_the_environment_of_make() -> None:
    entries = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert entries and all(entry.startswith((".venv/bin/", "make ")) for entry in entries)


def test_every_dependency_has_an_exact_version() -> None:
    import tomllib

    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    pinned = {pin.partition("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for name, extra in project["optional-dependencies"].items() if name != "trt" for one in extra]
    wanted = {re.split(r"[<>=!~\[ ]", one)[0].lower() for one in [*project["dependencies"], *extras]}
    assert wanted <= pinned
    assert "torch==2.13.0" in pins


def make(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *args], cwd=cwd, capture_output=True, text=True, check=False)


@NEEDS_MAKE
def test_an_old_python_is_one_clear_line(tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("test", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert "needs Python 3.11 or newer" in lines[0] and "make PYTHON=" in lines[0]
    assert not (tmp_path / "venv").exists()


@NEEDS_MAKE
def test_system_packages() -> None:
    assert "no Debian packages are needed" in make("system-deps", "DEBIAN_PACKAGES=").stdout
    dry = make("-n", "system-deps", "DEBIAN_PACKAGES=some-package").stdout
    assert "apt-get install" in dry and "some-package" in dry


@NEEDS_MAKE
@pytest.mark.slow
def test_types_are_checked_in_core_and_stages(tmp_path: Path) -> None:
    folders = ("irepdeploy", "bench", "export", "jetson", "search")
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / folder / "planted.py").write_text("wrong: int = 'text'\n")
    shutil.copytree(ROOT / "tests" / "support", tmp_path / "tests" / "support")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    environment = Path(sys.executable).parents[1]
    done = make("-o", f"{environment}/.installed", "types", f"VENV={environment}", cwd=tmp_path)
    assert done.returncode != 0
    for folder in folders:
        place = "irepdeploy/planted.py" if folder == "irepdeploy" else f"irepdeploy/{folder}/planted.py"
        assert f"{place}:1: error: Incompatible types" in done.stdout, done.stdout + done.stderr
