"""Install the agent on a board, with a small program that needs only Python there."""

from __future__ import annotations

import contextlib
import shlex

from irepdeploy.errors import MissingError, RunError

from .agent_archive import AgentArchive
from .hosts import PYTHON
from .ssh import Remote
from .ssh_failure import disk_full, full_error, last_line

__all__ = ["CHOOSE_PYTHON", "install", "typed"]

_NO_PYTHON, _OLD_PYTHON, _NOT_THERE = 97, 98, 99
# Valid in any Python 3, so that an old one reports its version.
_INSTALLER = f"""
import hashlib, os, sys
verb, name, digest = sys.argv[2:]
if sys.version_info < (3, 8):
    sys.stderr.write("%d.%d" % sys.version_info[:2])
    sys.exit({_OLD_PYTHON})
cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
folder = os.path.join(cache, "irepdeploy-agent", "agent")
path = os.path.join(folder, name)
if verb == "look":
    try:
        with open(path, "rb") as file:
            same = hashlib.sha256(file.read()).hexdigest() == digest
    except OSError:
        same = False
    sys.exit(0 if same else {_NOT_THERE})
content = sys.stdin.buffer.read()
if hashlib.sha256(content).hexdigest() != digest:
    sys.exit("the copy was cut short")
part = "%s.%d.part" % (path, os.getpid())
try:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
except OSError as error:
    try:
        os.unlink(part)
    except OSError:
        pass
    sys.exit("cannot write %s: %s" % (folder, error.strerror))
"""
# The first argument is the Python to use. It arrives quoted, so a leading ~/ must be expanded here.
CHOOSE_PYTHON = 'python=$1; shift; case $python in "~/"*) python=$HOME/${python#"~/"} ;; esac'
_INSTALL = (
    f'{CHOOSE_PYTHON}; command -v "$python" >/dev/null 2>&1 || exit {_NO_PYTHON}; '
    '"$python" -c "import sys; exec(bytes.fromhex(sys.argv[1]))" "$@"'
)


def install(remote: Remote, archive: AgentArchive, *, python: str = PYTHON) -> None:
    """Copy the agent into the board's cache, using the given Python there, unless the same agent is already there."""

    def both() -> None:
        if _installer(remote, archive, python, "look") == _NOT_THERE:
            _installer(remote, archive, python, "store", archive.content)

    remote.retried(both)


def _installer(remote: Remote, archive: AgentArchive, python: str, verb: str, content: bytes = b"") -> int:
    host = remote.destination
    process = remote.start(_INSTALL, python, _INSTALLER.encode().hex(), verb, archive.name, archive.sha256)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(content)
    code, text = process.finish()
    if code in (0, _NOT_THERE):
        return code
    if code == _NO_PYTHON and python != PYTHON:
        raise MissingError(
            f"there is no {python} that can be run", where=host, hint="--python names an interpreter on the board"
        )
    if code == _NO_PYTHON:
        raise MissingError("python3 is not installed", where=host, hint="sudo apt-get install python3 python3-numpy")
    if code == _OLD_PYTHON:
        raise MissingError(
            f"the agent needs Python 3.8 or later, {python} is {last_line(text)}", where=host, hint="JetPack 5 has 3.8"
        )
    if disk_full(text):
        raise full_error(host)
    if code in (126, 127):
        raise MissingError(
            f"{python} does not run: {last_line(text)}", where=host, hint=f"try: ssh {host} {typed(python)}"
        )
    raise RunError(last_line(text) or f"{python} ended with exit code {code}", where=host)


def typed(python: str) -> str:
    """Return a Python of the board as typed after ssh: two shells read it, and the second one expands ``~/``."""
    home, rest = ("~/", python[2:]) if python.startswith("~/") else ("", python)
    return shlex.quote(home + shlex.quote(rest))
