"""Boards and models named on a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from irepdeploy.errors import InputError, one_line
from irepdeploy.files import read_bytes
from irepdeploy.limits import DESCRIPTION

__all__ = ["PYTHON", "Host", "check_destination", "hosts_and_models", "read_hosts"]

PYTHON = "python3"

_MOST = 64
_EXAMPLE = "a command or a path there, such as ~/venv/bin/python"
_USER = r"(?P<user>[^@]+@)?"
_FORMS = (
    re.compile(rf"{_USER}(?P<host>[^@:/]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%\w+)?)"),
    re.compile(rf"ssh://{_USER}(?P<host>[^@:/]+|\[[0-9A-Fa-f:.]+(%\w+)?\])(:\d+)?/?"),
)


class Host(NamedTuple):
    """A board: its destination as for ssh, and the Python to use there, as a command or a path (~ is its home)."""

    name: str
    python: str = PYTHON


def check_destination(text: str) -> str:
    """Return `text` if it is ``[USER@]HOST`` or ``ssh://[USER@]HOST[:PORT]``."""
    match = _FORMS[text.startswith("ssh://")].fullmatch(text)
    fault = ""
    if re.search(r"[^\x21-\x7e]|[\"'`$\\;&<>|(){}*?!#]", text):
        fault = "a host name cannot have such characters"
    elif match is None:
        fault = "expected a host"
    elif text.startswith("-") or match["host"].startswith("-") or (match["user"] or "").startswith("-"):
        fault = "a host name cannot begin with a dash"
    if fault:
        raise InputError(fault, where=repr(text), hint="use USER@HOST, a name in ssh's config, or ssh://USER@HOST:PORT")
    return text


def _check_python(text: str) -> str:
    if not text or text.startswith("-") or not text.isprintable():
        raise InputError(f"expected an interpreter, got {one_line(repr(text))}", where="--python", hint=_EXAMPLE)
    if text.startswith("~") and not text.startswith("~/"):
        raise InputError("only a leading ~/ is expanded", where=f"--python {text}", hint=_EXAMPLE)
    return text


def _host(line: str, python: str | None) -> Host:
    """Parse ``HOST`` or ``HOST python=PATH``."""
    name, setting = (*line.split(maxsplit=1), "")[:2]
    key, equals, path = setting.partition("=")
    if setting and not (key == "python" and equals):
        raise InputError(f"unknown setting {setting!r}", where=repr(name), hint="HOST python=PATH")
    own = _check_python(path.strip()) if equals else python
    return Host(check_destination(name), own or PYTHON)


def read_hosts(hosts: Sequence[str], file: str | os.PathLike[str] | None, python: str | None = None) -> list[Host]:
    """Return the named boards and those of a file, one per line with ``#`` comments.

    A line may end with ``python=PATH``, the Python to use there; `python` is that of all other boards.
    """
    if python is not None:
        _check_python(python)
    found = [Host(check_destination(host), python or PYTHON) for host in hosts]
    if file is not None:
        text = read_bytes(file, "file of hosts", DESCRIPTION).decode(errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            entry = line.partition("#")[0].strip()
            try:
                found += [_host(entry, python)] if entry else []
            except InputError as error:
                where = f"{os.fspath(file)}, line {number}: {error.where}"
                raise InputError(error.what, where=where, hint=error.hint) from None
    if not found:
        raise InputError("no board named", hint="irepdeploy jetson check USER@HOST, or --hosts FILE")
    if len(found) > _MOST:
        raise InputError(f"expected at most {_MOST} boards, got {len(found)}", where="--hosts")
    names = [host.name for host in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError("named twice", where=twice)
    return found


def hosts_and_models(
    words: Sequence[str], file: str | os.PathLike[str] | None, python: str | None = None
) -> tuple[list[Host], list[str]]:
    """Split ``HOST MODEL...`` into boards and models; with a file of boards, every word is a model."""
    hosts, models = ([], list(words)) if file is not None else (list(words[:1]), list(words[1:]))
    if any(host.endswith(".onnx") for host in hosts):
        raise InputError(
            "expected a board, got a model", where=one_line(hosts[0]), hint="bench USER@HOST MODEL..., or --hosts FILE"
        )
    found = read_hosts(hosts, file, python)
    if not models:
        raise InputError("nothing to measure", where=found[0].name, hint="name ONNX files after the board")
    return found, models
