"""What the board's agent carries must run on Python 3.8 with no more than stdlib, numpy and onnxruntime."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import irepdeploy

ROOT = Path(irepdeploy.__file__).parent
CARRIED = [
    "errors.py",
    "runtime/__init__.py",
    "runtime/cuda_calls.py",
    "runtime/cudart.py",
    "runtime/ort_runner.py",
    "runtime/protocol.py",
    "runtime/runner.py",
    "runtime/sidecar.py",
    "runtime/trt_library.py",
    "runtime/trt_runner.py",
]
THIRD_PARTY = {"numpy", "onnxruntime"}
OURS = {f"irepdeploy.{name.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}" for name in CARRIED}
BUILTIN_GENERICS = {"dict", "frozenset", "list", "set", "tuple", "type"}
# Later than 3.8; a call of one of these names is enough to look at.
LATER_NAMES = {
    "aclosing", "batched", "bit_count", "cache", "call_once", "math.lcm", "nullcontext_async", "pairwise",
    "randbytes", "removeprefix", "removesuffix", "TypeAlias", "ParamSpec", "Self", "assert_never", "override",
}  # fmt: skip
LATER_KEYWORDS = {("dataclass", "kw_only"), ("dataclass", "slots"), ("zip", "strict"), ("bisect", "key")}
LATER_MODULES = {"graphlib", "tomllib", "zoneinfo"}


def faults(source: str) -> list[str]:
    """What in `source` would not run on the board."""
    try:
        tree = ast.parse(source, feature_version=(3, 8))
    except SyntaxError as error:
        return [f"syntax: {error.msg}"]
    found = []
    if source.strip() and len(tree.body) > 1 and "from __future__ import annotations" not in source:
        found.append("no `from __future__ import annotations`")
    for node in _evaluated(tree):
        if isinstance(node, ast.Import):
            found += [f"imports {name.name}" for name in node.names if not _allowed(name.name)]
        elif isinstance(node, ast.ImportFrom):
            if node.level or not _allowed(node.module or ""):
                found.append(f"imports from {'.' * node.level}{node.module or ''}")
            found += [f"uses {name.name}" for name in node.names if name.name in LATER_NAMES]
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id in BUILTIN_GENERICS:
                found.append(f"evaluates {node.value.id}[...]")
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            if ast.unparse(node.value).startswith("collections."):
                found.append(f"evaluates {ast.unparse(node.value)}[...]")
        elif isinstance(node, ast.Attribute) and node.attr in LATER_NAMES:
            found.append(f"uses {node.attr}")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rsplit(".", 1)[-1]
            found += [f"{called}({word.arg}=)" for word in node.keywords if (called, word.arg) in LATER_KEYWORDS]
        elif isinstance(node, ast.With | ast.AsyncWith) and _parenthesized(node, source):
            found.append("parenthesized with")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            # Between types, dicts or sets; of these only sets are 3.8, and they have union().
            found.append("uses |")
    return found


def _evaluated(tree: ast.AST) -> list[ast.AST]:
    """All nodes but annotations, which the __future__ import leaves unevaluated."""
    nodes, queue = [], [tree]
    while queue:
        node = queue.pop()
        nodes.append(node)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns"):
                continue
            queue += [child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST)]
    return nodes


def _allowed(module: str) -> bool:
    top = module.partition(".")[0]
    if top == "irepdeploy":
        return module in OURS
    return top in THIRD_PARTY or (top in sys.stdlib_module_names and top not in LATER_MODULES)


def _parenthesized(node: ast.With | ast.AsyncWith, source: str) -> bool:
    # feature_version does not see it where the parentheses could also be a tuple's or an expression's.
    line = source.splitlines()[node.lineno - 1]
    return line.rstrip().endswith("(") and len(node.items) > 1


@pytest.mark.parametrize("name", CARRIED)
def test_carried_module_runs_on_the_board(name: str) -> None:
    assert faults((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "match x:\n    case 1: pass",
        "import torch",
        "from irepdeploy.files import sha256",
        "from . import protocol",
        "from irepdeploy.runtime.torch_runner import TorchRunner",
        "Feeds = dict[str, int]",
        "x: 'int' = list[int]()",
        "import collections\nX = collections.deque[int]",
        "@dataclass(slots=True)\nclass A: pass",
        "@dataclasses.dataclass(kw_only=True)\nclass A: pass",
        "''.removeprefix('a')",
        "zip(a, b, strict=True)",
        "from functools import cache",
        "import tomllib",
        "X = int | None",
        "with (\n    a as b,\n    c as d,\n):\n    pass",
        "def f(x):\n    import onnx",
        "try:\n    pass\nexcept* ValueError:\n    pass",
    ],
)
def test_check_sees(line: str) -> None:
    assert faults("from __future__ import annotations\n" + line)


@pytest.mark.parametrize(
    "line",
    [
        "def f(x: list[int] | None) -> dict[str, int]: ...",
        "x: list[int] = []",
        "from irepdeploy.errors import InputError",
        "import onnxruntime",
        "if (y := 1): pass",
    ],
)
def test_check_lets_pass(line: str) -> None:
    assert faults("from __future__ import annotations\n" + line) == []


def test_check_wants_the_future_import() -> None:
    assert faults("'''Doc.'''\nX = 1") == ["no `from __future__ import annotations`"]
