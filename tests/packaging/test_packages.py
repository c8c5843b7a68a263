"""The installed files are those on disk, and they work outside the source tree."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
STAGES = {folder: package for package, folder in SETUPTOOLS["package-dir"].items()}
COMMANDS = PROJECT["project"]["entry-points"]["irepdeploy.commands"]

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, types, irepdeploy
names = [module.name for module in pkgutil.walk_packages(irepdeploy.__path__, "irepdeploy.")]
for name in names:
    if not name.endswith("__main__"):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert not isinstance(getattr(module, public), types.ModuleType), (name, public)
for public in irepdeploy.__all__:
    value = getattr(irepdeploy, public)
    assert callable(value) or public == "__version__", (public, value)
    assert public in dir(irepdeploy)
print(json.dumps([irepdeploy.__file__, names]))
"""


# Everything that users install; the workshop (bench/tools, tests/support) stays out.
PACKAGES = """
    irepdeploy board cli cli.commands data detect doctor inference network network.nets onnx_graph parsing
    onnx_collapse onnx_collapse.operators onnx_collapse.read_back plots profiling recipe reparam runs runtime tasks
    testing verify
    bench bench.report bench.report.charts bench.report.sections bench.suites
    export export.diagnosis export.engine export.precision export.request export.target export.writer
    jetson jetson.agent
    search search.evaluation search.execution search.reproduction search.strategies search.suites search.supernet
    search.training
"""
WORKSHOP = Path("bench/tools")


def modules() -> set[str]:
    """Return every file that must be in the wheel, by its path there."""
    found = set()
    for folder in ("irepdeploy", *STAGES):
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT)
            if not place.is_relative_to(WORKSHOP):
                found.add(str(place if folder == "irepdeploy" else Path("irepdeploy") / place))
    return found


def test_the_packages_are_those_listed_here_and_on_the_disk() -> None:
    listed = {"irepdeploy" if name == "irepdeploy" else f"irepdeploy.{name}" for name in PACKAGES.split()}
    assert set(SETUPTOOLS["packages"]) == listed
    assert {str(Path(path).parent).replace("/", ".") for path in modules()} == listed
    assert {f"{Path(path).parent}/__init__.py" for path in modules()} <= modules()


def test_the_core_has_few_modules_outside_its_rooms() -> None:
    assert len(list((ROOT / "irepdeploy").glob("*.py"))) <= 8


def test_every_command_lies_where_the_entry_point_says() -> None:
    for value in [*COMMANDS.values(), *PROJECT["project"]["entry-points"]["irepdeploy.api"].values()]:
        module, _, name = value.partition(":")
        path = ROOT.joinpath(*module.removeprefix("irepdeploy.").split(".")).with_suffix(".py")
        if module.split(".")[1] not in STAGES:
            path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        body = ast.parse(path.read_text()).body
        bound = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        bound |= {ast.unparse(target) for node in body if isinstance(node, ast.Assign) for target in node.targets}
        assert name in bound, value


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: a build folder left in the tree would lend its old files to the wheel.
    source = tmp_path_factory.mktemp("source")
    for name in ("irepdeploy", *STAGES):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(source / "dist"),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=source.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a virtual environment with the wheel, beside the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Path files of a folder that a path file names are not read, so the editable installation stays out.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(command: list[str], cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
class TestWheel:
    def test_holds_only_our_files(self, wheel: Path) -> None:
        names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        data = {f"irepdeploy/search/recipes/{path.name}" for path in (ROOT / "search" / "recipes").glob("*.yaml")}
        data |= {f"irepdeploy/bench/report/assets/{path.name}" for path in (ROOT / "bench/report/assets").iterdir()}
        data |= {"irepdeploy/cli/troubleshooting.md", "irepdeploy/network/nets/genotypes.json", "irepdeploy/py.typed"}
        assert names == modules() | data

    def test_has_the_licence(self, wheel: Path) -> None:
        assert any(name.endswith("/licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())

    def test_runs_elsewhere(self, installed: Path, tmp_path: Path) -> None:
        version = run([str(installed / "irepdeploy"), "--version"], tmp_path)
        assert version == run([str(installed / "python"), "-m", "irepdeploy", "--version"], tmp_path)
        text = run([str(installed / "irepdeploy"), "--help"], tmp_path)
        listed = {line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line[2:3].strip()}
        assert listed == set(COMMANDS)
        assert "NOT AVAILABLE" not in text

    def test_every_module_and_every_public_name(self, installed: Path, tmp_path: Path) -> None:
        home, names = json.loads(run([str(installed / "python"), "-W", "error", "-c", IMPORT_EVERYTHING], tmp_path))
        assert Path(home).is_relative_to(installed.parent)
        assert {name.replace(".", "/") for name in names} | {"irepdeploy"} == {
            path.removesuffix(".py").removesuffix("/__init__") for path in modules()
        }
