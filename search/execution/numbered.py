"""Numbered run folders: runs/train, runs/train-2, ..."""

from __future__ import annotations

import re
from pathlib import Path

from irepdeploy.folders import is_abandoned

from .ranks import Ranks
from .run_folder import begun_by

__all__ = ["folder_for"]

_RUNS = Path("runs")

# Runs of this process: a script that trains twice starts two runs, not the same run again.
_ours: set[Path] = set()


def folder_for(out: Path | None, kind: str, ranks: Ranks, *, again: bool) -> Path:
    """Return the folder of a run: `out`, or the first free number of ``runs/KIND``.

    A number also counts as free if its run was killed before it wrote anything.

    Args:
        out: Folder requested by the user, if any.
        kind: Kind of run, such as "train".
        ranks: Processes of the run; the first one chooses for all of them.
        again: Return the existing run with the highest number, to resume it or to start it over. A run begun by a
            launcher of these ranks is returned in any case, since torchrun has restarted them.
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
    # A comparison has a subfolder for each of its runs.
    return any(begun_by(ranks, each) for each in (folder, *folder.glob("*/")))


def _named(kind: str, number: int) -> Path:
    return _RUNS / (kind if number == 1 else f"{kind}-{number}")
