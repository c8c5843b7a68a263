"""The agent as one file: the code that runs on the board, packed so that Python can run it directly.

    archive = build_agent()
    Path(archive.name).write_bytes(archive.content)        # python3 irepdeploy-agent-0123456789ab.pyz check

The file contains `irepdeploy.jetson.agent`, the package `irepdeploy.board`, the errors, the limits and the version. The
same sources of the same version give the same bytes, and the name contains their digest.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import irepdeploy.board
from irepdeploy import __version__
from irepdeploy.errors import MissingError

__all__ = ["AgentArchive", "build_agent", "carried_modules"]

# Valid in any Python, so that an old one reports its version instead of a syntax error.
_MAIN = b"""\
import json
import sys

if sys.version_info < (3, 8):
    print(json.dumps({
        "event": "error",
        "code": 3,
        "kind": "MissingError",
        "what": "the agent needs Python 3.8 or later, got %d.%d" % sys.version_info[:2],
        "where": sys.executable,
        "hint": "JetPack 5 brings it; on JetPack 4: sudo apt-get install python3.8",
    }))
    sys.exit(3)

from irepdeploy.jetson.agent.main import main

sys.exit(main(sys.argv[1:], [sys.executable, "-u", sys.argv[0]]))
"""
# The earliest time that the format allows, since the time of packing would change the digest.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class AgentArchive:
    """The packed agent."""

    content: bytes

    @property
    def sha256(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        """Name of the file, which contains the first digits of the digest."""
        return f"irepdeploy-agent-{self.sha256[:12]}.pyz"


@functools.cache
def build_agent() -> AgentArchive:
    """Pack the agent."""
    metadata = f"Metadata-Version: 2.1\nName: irepdeploy\nVersion: {__version__}\n"
    files = {"__main__.py": _MAIN, f"irepdeploy-{__version__}.dist-info/METADATA": metadata.encode()}
    for module, path in carried_modules().items():
        end = "/__init__.py" if path.name == "__init__.py" else ".py"
        files[module.replace(".", "/") + end] = path.read_bytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, source in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            # Stored uncompressed, because the output of deflate differs between versions of zlib.
            archive.writestr(entry, source)
    return AgentArchive(content.getvalue())


def carried_modules() -> dict[str, Path]:
    """Return the name and source file of every module in the archive."""
    board, here = Path(irepdeploy.board.__file__).parent, Path(__file__).parent
    found = {"irepdeploy": board.parent / "__init__.py"}
    found |= {f"irepdeploy.{name}": board.parent / f"{name}.py" for name in ("errors", "limits")}
    found["irepdeploy.jetson"] = here / "__init__.py"
    for package, folder in (("irepdeploy.board", board), ("irepdeploy.jetson.agent", here / "agent")):
        for path in folder.glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    missing = [name for name, path in found.items() if not path.is_file()]
    if missing or "irepdeploy.jetson.agent.main" not in found:
        where = missing[0] if missing else "irepdeploy.jetson.agent"
        raise MissingError("its source is not installed", where=where, hint="install irepdeploy again")
    return dict(sorted(found.items()))
