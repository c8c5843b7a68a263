"""Folders of runs that number themselves: runs/train, runs/train-2, ..."""

from __future__ import annotations

import re
from pathlib import Path

from irepdeploy.folders import is_abandoned

from .ranks import Ranks
from .run_folder import begun_by

__all__ = ["folder_for"]

_RUNS = Path("runs")

# Runs of this process, which are not the same one started again: a script may train twice.
_ours: set[Path] = set()


def folder_for(out: Path | None, kind: str, ranks: Ranks, *, again: bool) -> Path:
    """Return the folder of a run: `out`, or else the first free number of ``runs/KIND``.

    A number is free too where a run was killed before it had written anything.

    Args:
        out: The folder that was asked for.
        kind: Such as "train".
        ranks: The processes of the run; the first chooses for all of them.
        again: Take the run that is there with the highest number, to resume it or to start it over. A run that a
            launcher of these ranks began is taken in any case: torchrun has started them again.
    """
    if out is not None:
        return out
    mine = [str(_chosen(kind, again, ranks))] if ranks.first else []
    return Path(ranks.gather(mine, 1)[0])


def _chosen(kind: str, again: bool, ranks: Ranks) -> Path:
    pattern = re.compile(rf"{re.escape(kind)}(?:-([1-9][0-9]{{0,8}}))?")
    found = (pattern.fullmatch(path.name) for path in (_RUNS.iterdir() if _RUNS.is_dir() else ()))
    numbers = sorted(int(match[1] or 1) for match in found if match is not None)
    there = [_named(kind, number) for number in numbers]
    chosen = next((folder for folder in there if _begun(folder, ranks)), None)
    if chosen is None:
        last = there[-1:]
        chosen = last[0] if last and (again or is_abandoned(last[0])) else _named(kind, max(numbers, default=0) + 1)
    _ours.add(chosen.absolute())
    return chosen


def _begun(folder: Path, ranks: Ranks) -> bool:
    if not ranks.launchers or folder.absolute() in _ours:
        return False
    # A comparison has a folder for each of its runs.
    return any(begun_by(ranks, each) for each in (folder, *folder.glob("*/")))


def _named(kind: str, number: int) -> Path:
    return _RUNS / (kind if number == 1 else f"{kind}-{number}")
