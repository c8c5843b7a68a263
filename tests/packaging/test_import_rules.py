"""The import rules of CONTRIBUTING.md, checked on the syntax tree; each is shown to catch what it forbids."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("bench", "export", "jetson", "search")
ALLOWED = {("bench", "export")}
DEPENDENCIES = {
    "PIL", "build", "click", "datasets", "hypothesis", "matplotlib", "numpy", "onnx", "onnxruntime", "onnxsim",
    "pycuda", "pydantic", "pytest", "rich", "scipy", "sklearn", "tensorboard", "tensorrt", "torch", "typer", "yaml",
}  # fmt: skip
# Type checkers see the public API here; at run time it comes from an entry point.
TYPES_ONLY = "irepdeploy/__init__.py"


def sources() -> list[str]:
    folders = ("irepdeploy", *STAGES, "tests", "examples")
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: str) -> list[str]:
    """Parts of the name under which the file is installed; a package's own file ends in `__init__`."""
    parts = list(Path(path).with_suffix("").parts)
    return ["irepdeploy", *parts] if parts[0] in STAGES else parts


def imports(path: str, tree: ast.AST) -> Iterator[tuple[list[str], bool, bool]]:
    """(absolute name in parts, whether it was relative, whether only type checkers see it) of all that is imported."""
    types_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        hidden = id(node) in types_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split("."), False, hidden
        elif isinstance(node, ast.ImportFrom):
            base = module_name(path)[: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield [*base, alias.name], node.level > 0, hidden
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.split("."), False, hidden


def import_faults(path: str, code: str) -> list[str]:
    """What the file imports against the rules."""
    faults = []
    top = Path(path).parts[0]
    for target, relative, types_only in imports(path, ast.parse(code)):
        name = ".".join(target)
        stage = target[1] if target[0] == "irepdeploy" and len(target) > 1 and target[1] in STAGES else None
        if target[0] in STAGES and not relative:
            faults.append(f"bare {name}")
        elif top == "irepdeploy" and stage and not (types_only and path == TYPES_ONLY):
            faults.append(f"the core imports {name}")
        elif top in STAGES and stage == top and not relative:
            faults.append(f"{name} of the same stage: import it relatively")
        elif top in STAGES and stage not in (None, top) and (top, stage) not in ALLOWED:
            faults.append(f"the {top} stage imports {name}")
        elif top in STAGES and stage != top and relative:
            faults.append(f"{name} lies outside the stage: import it absolutely")
    return faults


def exported(code: str) -> set[str]:
    """Public names that a package's `__init__.py` binds: imports, definitions, `__all__`."""
    names: set[str] = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))
    return {name for name in names if not name.startswith("_")}


def submodules(path: str) -> set[str]:
    """Names of the modules and packages beside an `__init__.py`, as they are installed."""
    package = module_name(path)[:-1]
    return {
        name[len(package)]
        for name in (module_name(other) for other in sources())
        if name[: len(package)] == package and name[len(package)] != "__init__"
    }


@pytest.mark.parametrize("path", sources())
def test_imports_follow_the_rules(path: str) -> None:
    assert import_faults(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", [path for path in sources() if path.split("/")[0] not in ("tests", "examples")])
def test_no_module_is_named_like_a_dependency(path: str) -> None:
    assert not DEPENDENCIES & set(module_name(path))


@pytest.mark.parametrize("path", [path for path in sources() if path.endswith("__init__.py")])
def test_no_public_name_is_a_module_beside_it(path: str) -> None:
    assert exported((ROOT / path).read_text()) & submodules(path) == set()


def test_there_is_something_to_check() -> None:
    assert {Path(path).parts[0] for path in sources()} >= {"irepdeploy", "tests", *STAGES}
    assert len(sources()) > 40


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("irepdeploy/cli/program.py", "import irepdeploy.search"),
        ("irepdeploy/cli/program.py", "from irepdeploy import export"),
        ("irepdeploy/cli/program.py", "def f():\n    from irepdeploy.bench.suite import run"),
        ("irepdeploy/cli/program.py", "from .search import des"),
        ("irepdeploy/data/digits.py", "from ..search import des"),
        ("irepdeploy/cli/program.py", "import importlib\nimportlib.import_module('irepdeploy.jetson')"),
        (
            "irepdeploy/cli/program.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import irepdeploy.search",
        ),
        ("irepdeploy/__init__.py", "from irepdeploy.export.pipeline import export_model"),
        ("search/des.py", "from irepdeploy.export import pipeline"),
        ("search/des.py", "from ..export import pipeline"),
        ("search/des.py", "from irepdeploy.search.supernet.supernet import Supernet"),
        ("search/des.py", "from ..errors import RunError"),
        ("search/des.py", "from .. import errors"),
        ("export/pipeline.py", "import irepdeploy.bench"),
        ("bench/suite.py", "from irepdeploy.search import des"),
        ("bench/suite.py", "import search"),
        ("tests/core/test_x.py", "from export.pipeline import export_model"),
        ("examples/x.py", "import jetson.agent"),
    ],
)
def test_a_forbidden_import_is_caught(path: str, code: str) -> None:
    assert import_faults(path, code)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("irepdeploy/cli/program.py", "from irepdeploy.errors import RunError"),
        ("irepdeploy/__init__.py", "if TYPE_CHECKING:\n    from irepdeploy.export.pipeline import export_model"),
        ("search/des.py", "from .supernet import Supernet\nfrom irepdeploy.errors import RunError\nimport torch"),
        ("search/strategies/des.py", "from ..supernet import Supernet\nfrom .. import budget"),
        ("search/__init__.py", "from .des import search_network"),
        ("bench/suite.py", "from irepdeploy.export.pipeline import export_model"),
        ("tests/search/test_des.py", "from irepdeploy.search.des import Des"),
    ],
)
def test_an_allowed_import_is_let_through(path: str, code: str) -> None:
    assert import_faults(path, code) == []


def test_a_clash_of_names_is_caught() -> None:
    assert exported("from .x import export\nfrom y import z as bench\n__all__ = ['search']\ndef cli(): ...") == {
        "bench", "cli", "export", "search",
    }  # fmt: skip
    assert {"bench", "cli", "export", "search", "reparam"} <= submodules("irepdeploy/__init__.py")
    assert DEPENDENCIES & set(module_name("export/onnx.py"))
    assert DEPENDENCIES & set(module_name("irepdeploy/tensorrt/__init__.py"))
