"""The agent as one file: what runs on the board, packed so that the board's Python runs it as it is.

    archive = build_agent()
    Path(archive.name).write_bytes(archive.content)        # python3 irepdeploy-agent-0123456789ab.pyz check

It holds `irepdeploy.jetson.agent` and what that imports of irepdeploy. The same sources give the same bytes, and the
name holds their digest.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from irepdeploy.errors import MissingError

__all__ = ["AgentArchive", "build_agent", "carried_modules"]

_AGENT = "irepdeploy.jetson.agent"
# Of any Python, so that one that is too old says so instead of showing a syntax error.
_MAIN = b"""\
import json
import sys

if sys.version_info < (3, 8):
    print(json.dumps({
        "event": "error",
        "code": 3,
        "kind": "MissingError",
        "what": "Python %d.%d, and the agent needs 3.8" % sys.version_info[:2],
        "where": sys.executable,
        "hint": "JetPack 5 brings it; on JetPack 4: sudo apt-get install python3.8",
    }))
    sys.exit(3)

from irepdeploy.jetson.agent.main import main

sys.exit(main(sys.argv[1:], [sys.executable, "-u", sys.argv[0]]))
"""
# The earliest that the format knows: the time of packing would be another digest each time.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class AgentArchive:
    """The agent.

    Args:
        name: of the file; it holds the first digits of the digest.
        content: what Python runs.
        sha256: of the content.
    """

    name: str
    content: bytes
    sha256: str


@functools.cache
def build_agent() -> AgentArchive:
    """Pack the agent.

    Raises:
        MissingError: irepdeploy was installed without its sources.
    """
    files = {"__main__.py": _MAIN}
    for module, path in carried_modules().items():
        end = "/__init__.py" if path.name == "__init__.py" else ".py"
        files[module.replace(".", "/") + end] = path.read_bytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, source in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            # Stored: what deflate gives differs between versions of zlib, and the whole is small.
            archive.writestr(entry, source)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    return AgentArchive(f"irepdeploy-agent-{digest[:12]}.pyz", content.getvalue(), digest)


def carried_modules() -> dict[str, Path]:
    """Every module of the agent and, again and again, what these import of irepdeploy: names and sources."""
    folder = _source(_AGENT).parent
    names = [_AGENT, *(f"{_AGENT}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__")]
    found: dict[str, Path] = {}
    while names:
        name = names.pop()
        if name not in found:
            found[name] = _source(name)
            names += _imports(name, found[name])
            # A package comes with a module of it.
            names += [name.rpartition(".")[0]] if "." in name else []
    return dict(sorted(found.items()))


def _source(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise MissingError(
            "its source is not installed", where=name, hint="pip install irepdeploy, not only its bytecode"
        )
    return Path(spec.origin)


def _imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _run(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            named = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        # Of "from package import name" only what is found is a module.
        yield from (one for one in named if one.split(".")[0] == "irepdeploy" and _is_module(one))


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but what is for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield from _run(child)
