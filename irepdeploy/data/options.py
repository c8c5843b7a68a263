"""Validation of the options of data sets in recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["existing_folder", "switch", "whole"]


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value`, or raise InputError unless it is an integer between `least` and `most`."""
    if type(value) is not int or value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"expected an integer {limits}, got {value!r}", where=f"data option {name}")
    return value


def switch(name: str, value: Any) -> bool:
    """Return `value`, or raise InputError unless it is a boolean."""
    if not isinstance(value, bool):
        raise InputError(f"expected true or false, got {value!r}", where=f"data option {name}")
    return value


def existing_folder(root: Any) -> Path:
    """Return `root` as a path with `~` expanded, or raise InputError unless it is an existing folder."""
    if not isinstance(root, str | os.PathLike) or not os.fspath(root):
        raise InputError(f"expected a folder, got {root!r}", where="data.root")
    path = Path(root).expanduser()
    if not path.exists():
        raise InputError("no such folder", where=path, hint="data.root=DIR is the folder that contains the data")
    return path
