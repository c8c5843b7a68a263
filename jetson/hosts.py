"""Boards and models named on a command line."""

from __future__ import annotations

import os
from collections.abc import Sequence

from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes

from .destination import check_destination
from .ssh_failure import one_line

__all__ = ["hosts_and_models", "read_hosts"]

_MOST = 64


def read_hosts(hosts: Sequence[str], file: str | os.PathLike[str] | None) -> list[str]:
    """Return the named boards and those of a file, one per line with ``#`` comments."""
    found = [check_destination(host) for host in hosts]
    if file is not None:
        text = read_bytes(file, "file of hosts").decode(errors="replace")
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
