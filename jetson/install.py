"""Install the agent on a board, with a small program that needs only Python there."""

from __future__ import annotations

import contextlib

from irepdeploy.errors import MissingError, RunError

from .agent_archive import AgentArchive
from .ssh import Remote
from .ssh_failure import disk_full, full_error, last_line

__all__ = ["install"]

_NO_PYTHON, _OLD_PYTHON, _NOT_THERE = 97, 98, 99
# For any Python 3, so that an old one reports its version.
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
_INSTALL = (
    f"command -v python3 >/dev/null 2>&1 || exit {_NO_PYTHON}; "
    'python3 -c "import sys; exec(bytes.fromhex(sys.argv[1]))" "$@"'
)


def install(remote: Remote, archive: AgentArchive) -> None:
    """Copy the agent into the board's cache, unless the same one is already there."""

    def both() -> None:
        if _installer(remote, archive, "look") == _NOT_THERE:
            _installer(remote, archive, "store", archive.content)

    remote.retried(both)


def _installer(remote: Remote, archive: AgentArchive, verb: str, content: bytes = b"") -> int:
    host = remote.destination
    process = remote.start(_INSTALL, _INSTALLER.encode().hex(), verb, archive.name, archive.sha256)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(content)
    code, text = process.finish()
    if code in (0, _NOT_THERE):
        return code
    if code == _NO_PYTHON:
        raise MissingError("python3 is not installed", where=host, hint="sudo apt-get install python3 python3-numpy")
    if code == _OLD_PYTHON:
        raise MissingError(
            f"the agent needs Python 3.8 or later, python3 is {last_line(text)}", where=host, hint="JetPack 5 has 3.8"
        )
    if disk_full(text):
        raise full_error(host)
    if code in (126, 127):
        raise MissingError(f"python3 does not run: {last_line(text)}", where=host, hint=f"try: ssh {host} python3")
    raise RunError(last_line(text) or f"python3 ended with exit code {code}", where=host)
