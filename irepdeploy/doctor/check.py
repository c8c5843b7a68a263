"""Rows of the doctor's table, and a parallel run of checks that are isolated from each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from irepdeploy import errors

__all__ = ["Check", "Part", "one_line", "run_all"]


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: What was checked.
        found: What was found, or "-" for nothing.
        status: "ok"; "warning" if it is usable with a caveat; "missing" if it is absent or not usable.
        note: A note of one line.
        fix: The command that fixes the problem.
        required: Whether a plain installation needs it to be "ok".
    """

    name: str
    found: str
    status: Literal["ok", "missing", "warning"] = "ok"
    note: str = ""
    fix: str = ""
    required: bool = False


Part = Callable[[], list[Check]]


def run_all(parts: Mapping[str, Part]) -> list[Check]:
    """Run all parts in parallel and return their rows in order. An exception becomes a warning with the reason."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return [check for checks in pool.map(_guarded, parts, parts.values()) for check in checks]


def _guarded(name: str, part: Part) -> list[Check]:
    try:
        return part()
    except Exception as error:  # the user must see the other rows in any case
        return [Check(name, "unknown", "warning", f"cannot be checked: {type(error).__name__}: {one_line(error)}")]


def one_line(text: object) -> str:
    """Return the text as one line of at most 160 characters."""
    return errors.one_line(text, 160)
