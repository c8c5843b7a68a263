"""Find code that does not run on Python 3.8."""

from __future__ import annotations

import ast

import vermin

__all__ = ["faults"]

_BUILTIN_GENERICS = {"dict", "frozenset", "list", "set", "tuple", "type"}
_TYPES = {*_BUILTIN_GENERICS, "None", "bool", "bytes", "float", "int", "str"}


def faults(source: str) -> list[str]:
    """Return the parts of `source` that need a later Python, by vermin's rules and for types that are evaluated."""
    config = vermin.Config()
    config.set_verbose(3)
    # Lines such as "L3: 'dataclasses.dataclass(slots)' requires !2, 3.10".
    lines = [line for line in vermin.visit(source, config).output_text().splitlines() if " require" in line]
    later = [line for line in lines if tuple(map(int, line.rpartition(" ")[2].split("."))) > (3, 8)]
    return later + _evaluated_types(ast.parse(source))


def _evaluated_types(tree: ast.Module) -> list[str]:
    """Find subscripts of builtins and of `collections`, and unions, except in annotations."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    lazy = any(node.module == "__future__" for node in imports)
    names = [alias.name for node in imports if str(node.module).startswith("collections") for alias in node.names]
    generic = _BUILTIN_GENERICS.union(names)
    found: list[str] = []
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Subscript):
            name = ast.unparse(node.value)
            found += [f"evaluates {name}[...]"] if name in generic or name.startswith("collections.") else []
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            found += (
                [f"evaluates {ast.unparse(node)}"] if _TYPES & {ast.unparse(node.left), ast.unparse(node.right)} else []
            )
        for field, value in ast.iter_fields(node):
            if not (lazy and field in ("annotation", "returns")):
                queue += [
                    child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST)
                ]
    return found
