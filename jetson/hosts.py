"""Boards and models named on a command line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from irepdeploy.errors import InputError, one_line
from irepdeploy.files import read_bytes
from irepdeploy.limits import DESCRIPTION

__all__ = ["check_destination", "hosts_and_models", "read_hosts"]

_MOST = 64
_USER = r"(?P<user>[^@]+@)?"
_FORMS = (
    re.compile(rf"{_USER}(?P<host>[^@:/]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%\w+)?)"),
    re.compile(rf"ssh://{_USER}(?P<host>[^@:/]+|\[[0-9A-Fa-f:.]+(%\w+)?\])(:\d+)?/?"),
)


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


def read_hosts(hosts: Sequence[str], file: str | os.PathLike[str] | None) -> list[str]:
    """Return the named boards and those of a file, one per line with ``#`` comments."""
    found = [check_destination(host) for host in hosts]
    if file is not None:
        text = read_bytes(file, "file of hosts", DESCRIPTION).decode(errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            name = line.partition("#")[0].strip()
            try:
                found += [check_destination(name)] if name else []
            except InputError as error:
                raise InputError(error.what, where=f"{os.fspath(file)}, line {number}: {error.where}") from None
    if not found:
        raise InputError("no board named", hint="irepdeploy jetson check USER@HOST, or --hosts FILE")
    if len(found) > _MOST:
        raise InputError(f"expected at most {_MOST} boards, got {len(found)}", where="--hosts")
    twice = next((host for host in found if found.count(host) > 1), None)
    if twice is not None:
        raise InputError("named twice", where=twice)
    return found


def hosts_and_models(words: Sequence[str], file: str | os.PathLike[str] | None) -> tuple[list[str], list[str]]:
    """Split ``HOST MODEL...`` into boards and models; with a file of boards every word is a model."""
    hosts, models = ([], list(words)) if file is not None else (list(words[:1]), list(words[1:]))
    if any(host.endswith(".onnx") for host in hosts):
        raise InputError(
            "expected a board, got a model", where=one_line(hosts[0]), hint="bench USER@HOST MODEL..., or --hosts FILE"
        )
    found = read_hosts(hosts, file)
    if not models:
        raise InputError("nothing to measure", where=found[0], hint="name ONNX files after the board")
    return found, models
