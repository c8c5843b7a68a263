"""Folders of runs that number themselves: runs/train, runs/train-2, ..."""

from __future__ import annotations

import re
from pathlib import Path

from .ranks import Ranks
from .run_folder import begun_by

__all__ = ["folder_for"]

_RUNS = Path("runs")


def folder_for(out: Path | None, kind: str, ranks: Ranks, *, again: bool) -> Path:
    """Return the folder of a run: `out`, or else the first free number of ``runs/KIND``.

    Args:
        out: The folder that was asked for.
        kind: Such as "train".
        ranks: The processes of the run; the first chooses for all of them.
        again: Take the run that is there with the highest number, to resume it or to start it over. So is the run taken
            that a launcher of these ranks began: torchrun has started them again.
    """
    if out is not None:
        return out
    mine = [str(_chosen(kind, again, ranks))] if ranks.first else []
    return Path(ranks.gather(mine, 1)[0])


def _chosen(kind: str, again: bool, ranks: Ranks) -> Path:
    pattern = re.compile(rf"{re.escape(kind)}(?:-([1-9][0-9]{{0,8}}))?")
    found = (pattern.fullmatch(path.name) for path in (_RUNS.iterdir() if _RUNS.is_dir() else ()))
    last = max((int(match[1] or 1) for match in found if match is not None), default=0)
    there = _named(kind, max(1, last))
    # A comparison has a folder for each of its runs.
    again = again or any(begun_by(ranks, folder) for folder in (there, *there.glob("*/")))
    return there if again else _named(kind, last + 1)


def _named(kind: str, number: int) -> Path:
    return _RUNS / (kind if number == 1 else f"{kind}-{number}")
