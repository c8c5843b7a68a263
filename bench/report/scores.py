"""Scores of the searches and trainings in the folders of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from irepdeploy.console import log
from irepdeploy.errors import InputError
from irepdeploy.runs import TOP_5
from irepdeploy.runs.journal import JOURNAL
from irepdeploy.runs.result import ScoreSet, SearchFigures, read_result

from .others import PlainTable

__all__ = ["score_table"]

_COLUMNS = ("run", "set", "score", "95 % interval", TOP_5)


def score_table(folders: Sequence[Path], note: Callable[[str], None] = log) -> PlainTable | None:
    """Return a table of the scores of all finished runs in `folders`; None if there are none.

    It has a column for the top-5 accuracy if any run reports one.
    """
    rows: list[tuple[str, ...]] = []
    for folder in folders:
        if not (folder / JOURNAL).is_file():
            continue
        try:
            rows += _rows(folder)
        except InputError as error:
            note(f"no scores of a run: {error.line}")
    if not rows:
        return None
    width = len(_COLUMNS) if any(row[-1] for row in rows) else len(_COLUMNS) - 1
    return PlainTable("Scores of searches and trainings", "", _COLUMNS[:width], tuple(row[:width] for row in rows))


def _rows(folder: Path) -> Iterator[tuple[str, ...]]:
    result = read_result(folder)
    if result is None:
        return
    scores = {"search-validation": result.val_accuracy}
    if isinstance(result, SearchFigures):
        sets = {"search-validation": ScoreSet(samples=0, figures=result.figures)}
    else:
        names = {"val": "search-validation"}
        sets = {names.get(name, name): each for name, each in result.sets.items()}
        if result.test_accuracy is not None:
            scores["test"] = result.test_accuracy
    text = result.by.text
    for name, score in scores.items():
        found = sets.get(name) or ScoreSet(samples=0, figures={})
        low, high = found.low, found.high
        interval = "" if low is None or high is None else f"{text(low)} to {text(high)}"
        top_5 = f"{found.figures[TOP_5]:.2%}" if TOP_5 in found.figures else ""
        yield folder.resolve().name, name, f"{text(score)} {result.by.name}", interval, top_5
