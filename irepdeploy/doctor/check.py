"""One row of the doctor's table, and how checks are run: side by side, none of them able to end the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Check", "Part", "one_line", "run_all"]


@dataclass(frozen=True)
class Check:
    """One row.

    Args:
        name: what was looked at.
        found: what is there, "-" if it is not.
        status: "ok"; "missing": it is not there or of no use; "warning": of use, with something to know.
        note: one line.
        mend: exactly what to type, "" where nothing is to be typed.
        required: a plain installation needs it.
    """

    name: str
    found: str
    status: Literal["ok", "missing", "warning"] = "ok"
    note: str = ""
    mend: str = ""
    required: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


Part = Callable[[], list[Check]]


def run_all(parts: Mapping[str, Part]) -> list[Check]:
    """Rows of all parts, in order; of a part that raises one warning with the reason."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return [check for checks in pool.map(_guarded, parts, parts.values()) for check in checks]


def _guarded(name: str, part: Part) -> list[Check]:
    try:
        return part()
    except Exception as error:  # however odd a machine is, its user sees all other rows
        return [Check(name, "unknown", "warning", f"cannot be looked at: {type(error).__name__}: {one_line(error)}")]


def one_line(text: object) -> str:
    """The text as one line of at most 160 characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= 160 else line[:157] + "..."
