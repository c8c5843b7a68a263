"""What keeps a module from running on the board: Python later than 3.8, or more than stdlib and numpy.

It looks at what a test on Python 3.8 itself would find only where it runs that very line.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection

__all__ = ["faults"]

_THIRD_PARTY = {"numpy", "onnxruntime", "tensorrt"}
_BUILTIN_GENERICS = {"dict", "frozenset", "list", "set", "tuple", "type"}
_OLDEST = (3, 8)
_LATER_MODULES = {"graphlib", "tomllib", "zoneinfo"}


def faults(source: str, ours: Collection[str]) -> list[str]:
    """What in `source` would not run on the board.

    Args:
        ours: modules of irepdeploy that it may import. One of the agent may import its neighbours.
    """
    try:
        tree = ast.parse(source, feature_version=(3, 8))
    except SyntaxError as error:
        return [f"syntax: {error.msg}"]
    found = []
    if source.strip() and len(tree.body) > 1 and "from __future__ import annotations" not in source:
        found.append("no `from __future__ import annotations`")
    abstract = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("collections")
        for alias in node.names
    }
    for node in _evaluated(tree):
        if isinstance(node, ast.Import):
            found += [f"imports {name.name}" for name in node.names if not _allowed(name.name, ours)]
        elif isinstance(node, ast.ImportFrom):
            if node.level > 1 or (node.level == 0 and not _allowed(node.module or "", ours)):
                found.append(f"imports from {'.' * node.level}{node.module or ''}")
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id in _BUILTIN_GENERICS | abstract:
                found.append(f"evaluates {node.value.id}[...]")
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            if ast.unparse(node.value).startswith("collections."):
                found.append(f"evaluates {ast.unparse(node.value)}[...]")
        elif isinstance(node, ast.With | ast.AsyncWith) and _parenthesized(node, source):
            found.append("parenthesized with")
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            # Between types, dicts or sets; of these only sets are 3.8, and they have union(). Flags are numbers.
            found += [] if _is_flag(node.left) else ["uses |"]
    return found + _later(source)


def _later(source: str) -> list[str]:
    """What the standard library has had from a later version on, by vermin's rules."""
    import vermin

    config = vermin.Config()
    config.set_verbose(3)
    visitor = vermin.visit(source, config)
    # "L3: 'dataclasses.dataclass(slots)' requires !2, 3.10"
    lines = [line for line in visitor.output_text().splitlines() if " requires " in line]
    return [line for line in lines if tuple(map(int, line.rpartition(" ")[2].split("."))) > _OLDEST]


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr.isupper()


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


def _allowed(module: str, ours: Collection[str]) -> bool:
    top = module.partition(".")[0]
    if top == "irepdeploy":
        return module in ours
    return top in _THIRD_PARTY or (top in sys.stdlib_module_names and top not in _LATER_MODULES)


def _parenthesized(node: ast.With | ast.AsyncWith, source: str) -> bool:
    # feature_version does not see it where the parentheses could also be a tuple's or an expression's.
    line = source.splitlines()[node.lineno - 1]
    return line.rstrip().endswith("(") and len(node.items) > 1
