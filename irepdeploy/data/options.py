"""Checks of the options that a recipe gives a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["existing_folder", "switch", "whole"]


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value`, a whole number in its range.

    Raises:
        InputError: it is none.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"a whole number, {limits}, is due, not {value!r}", where=f"data option {name}")
    return value


def switch(name: str, value: Any) -> bool:
    """`value`, true or false.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(value, bool):
        raise InputError(f"true or false is due, not {value!r}", where=f"data option {name}")
    return value


def existing_folder(root: Any) -> Path:
    """`root` as a path, `~` expanded.

    Raises:
        InputError: there is no such folder.
    """
    if not isinstance(root, str | os.PathLike) or not os.fspath(root):
        raise InputError(f"a folder is due, not {root!r}", where="data.root")
    path = Path(root).expanduser()
    if not path.exists():
        raise InputError("no such folder", where=path, hint="data.root=DIR names the folder that holds the data")
    return path
