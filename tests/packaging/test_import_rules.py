"""Rules of CONTRIBUTING.md about names and imports that neither ruff nor import-linter can express."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAGES = ("bench", "export", "jetson", "search")
# Names by which dependencies are imported where they differ from the names by which they are installed.
IMPORT_NAMES = {"PIL", "click", "scipy", "sklearn", "yaml"}
DEPENDENCIES = IMPORT_NAMES | {
    requirement.split(">=")[0].replace("-", "_")
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in group
}
SOURCES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("irepdeploy", *STAGES, "tests", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def module_name(path: str) -> list[str]:
    """Return the parts of the name under which a file is installed."""
    parts = list(Path(path).with_suffix("").parts)
    return ["irepdeploy", *parts] if parts[0] in STAGES else parts


def import_faults(path: str, code: str) -> Iterator[str]:
    """Yield the imports that are relative across a stage's border, absolute inside it, or bare."""
    here = module_name(path)
    stage = here[1] if here[0] == "irepdeploy" and here[1] in STAGES else None
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names, relative = [alias.name for alias in node.names], False
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            names = [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]
            relative = node.level > 0
        else:
            continue
        for name in names:
            target = name.split(".")
            same_stage = stage is not None and target[:2] == ["irepdeploy", stage]
            if (target[0] in STAGES and not relative) or relative != same_stage:
                yield f"{path}: {name}"


def public_names(code: str) -> set[str]:
    """Return the public names that a package's `__init__.py` binds."""
    names: set[str] = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))
    return {name for name in names if not name.startswith("_")}


def modules_beside(path: str) -> set[str]:
    """Return the names of the modules and packages beside an `__init__.py`, as they are installed."""
    package = module_name(path)[:-1]
    names = (module_name(other) for other in SOURCES)
    return {name[len(package)] for name in names if name[: len(package)] == package} - {"__init__"}


def test_imports_are_relative_inside_a_stage_and_absolute_elsewhere() -> None:
    assert len(SOURCES) > 400
    assert [fault for path in SOURCES for fault in import_faults(path, (ROOT / path).read_text())] == []


def test_no_module_is_named_like_a_dependency() -> None:
    assert {"numpy", "onnx", "torch", "typer"} <= DEPENDENCIES
    ours = [path for path in SOURCES if not path.startswith(("tests/", "examples/"))]
    assert [path for path in ours if DEPENDENCIES & set(module_name(path))] == []


def test_no_public_name_is_a_module_beside_it() -> None:
    packages = [path for path in SOURCES if path.endswith("__init__.py")]
    assert [path for path in packages if public_names((ROOT / path).read_text()) & modules_beside(path)] == []


@pytest.mark.parametrize(
    ("path", "code", "allowed"),
    [
        ("irepdeploy/data/digits.py", "from ..search import des", False),
        ("search/des.py", "from ..errors import RunError", False),
        ("search/des.py", "from .. import errors", False),
        ("search/des.py", "from irepdeploy.search.supernet import Supernet", False),
        ("bench/suite.py", "import search", False),
        ("tests/cli/test_x.py", "from export.pipeline import export_model", False),
        ("search/strategies/des.py", "from ..supernet import Supernet\nfrom .. import budget\nimport torch", True),
        ("search/__init__.py", "from .des import search_network", True),
        ("bench/suite.py", "from irepdeploy.export.pipeline import export_model", True),
    ],
)
def test_the_import_rule_tells_good_from_bad(path: str, code: str, allowed: bool) -> None:
    assert (list(import_faults(path, code)) == []) is allowed


def test_a_clash_of_names_is_found() -> None:
    assert public_names("from .x import export\nfrom y import z as bench\n__all__ = ['search']\ndef cli(): ...") == {
        "bench", "cli", "export", "search",
    }  # fmt: skip
    assert {"bench", "cli", "export", "search", "reparam"} <= modules_beside("irepdeploy/__init__.py")
