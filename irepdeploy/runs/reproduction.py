"""Records of a reproduction: one line for each training of its protocol, and what they say beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictInt, StrictStr

from irepdeploy.errors import InputError
from irepdeploy.parsing.json_lines import append_line, read_lines
from irepdeploy.parsing.json_text import JsonError, unsealed
from irepdeploy.parsing.validation import validated
from irepdeploy.runs.result import SearchFigures, TrainingResult
from irepdeploy.runs.schema import Count, Digest, Number, Schema
from irepdeploy.runs.spread import student_interval

__all__ = ["MARGIN", "RECORDS", "Difference", "ReproducedCell", "append_cell", "paired", "read_cells"]

RECORDS = "records.jsonl"
MARGIN = 0.3
_KIND = "file of records of a reproduction"


class ReproducedCell(Schema):
    """One training of a protocol: what it was, under which settings, and its result.

    `test_accuracy` of the result is None in a trial, which never reads the test set. `architecture` is what was
    trained, if not all branches of the preset; `search` are the figures of the search that found it. `structure` is the
    digest of the exported network: a runtime does the same work for all networks of one digest.
    """

    protocol: StrictStr
    version: Number
    cell: StrictStr
    stage: Literal["trial", "final", "candidate"]
    network: StrictStr
    condition: StrictStr
    arm: StrictStr
    place: Count
    seed: StrictInt
    settings: dict[StrictStr, float | str]
    result: TrainingResult
    architecture: dict[str, Any] | None = None
    search: SearchFigures | None = None
    score: float | None = Field(default=None, allow_inf_nan=False)
    structure: Digest | None = None
    recipe: dict[str, Any]
    created: StrictStr
    system: dict[str, Any]


def append_cell(path: Path, cell: ReproducedCell) -> None:
    """Append a record; earlier lines are never changed."""
    append_line(path, cell.model_dump(mode="json"))


def read_cells(paths: Iterable[Path]) -> dict[str, ReproducedCell]:
    """Read records by the name of their cell; of a cell that was done twice the first one counts.

    Raises:
        InputError: A file cannot be read, or none of its lines is such a record.
    """
    found: dict[str, ReproducedCell] = {}
    for path in paths:
        for cell in read_lines(path, _parsed, _KIND, "record").values.values():
            found.setdefault(cell.cell, cell)
    return found


def _parsed(value: object, where: str) -> ReproducedCell:
    try:
        value = unsealed(value)
    except JsonError as error:
        raise InputError(f"not a record: {error}", where=where) from None
    return validated(ReproducedCell, value, "a record of a reproduction", where=where)


@dataclass(frozen=True)
class Difference:
    """Differences of scores paired by seed, in points, with Student's 95 % interval of their mean.

    `corrected` is the interval whose confidence is Bonferroni's for all comparisons of the table together.
    """

    values: tuple[float, ...]
    interval: tuple[float, float] | None
    corrected: tuple[float, float] | None

    @property
    def text(self) -> str:
        """Format as "+0.30 [+0.10, +0.50]"."""
        mean = f"{statistics.fmean(self.values):+.2f}"
        return mean if self.interval is None else f"{mean} [{self.interval[0]:+.2f}, {self.interval[1]:+.2f}]"

    @property
    def verdict(self) -> str:
        """What the interval decides: "better", "worse", "within 0.3", or "undecided"."""
        if self.interval is None:
            return "undecided"
        low, high = self.interval
        side = "better" if low > 0 else "worse" if high < 0 else ""
        if side:
            held = self.corrected is not None and not self.corrected[0] <= 0 <= self.corrected[1]
            return side if held else f"{side}, alone"
        return f"within {MARGIN:g}" if low > -MARGIN and high < MARGIN else "undecided"


def paired(one: Mapping[int, float], base: Mapping[int, float], comparisons: int = 1) -> Difference | None:
    """Return the difference of two arms over the seeds that both have, in percentage points; None without any.

    Args:
        one: Scores in [0, 1] by seed.
        base: Those of the arm that it is compared with.
        comparisons: How many differences the table shows.
    """
    values = tuple(100 * (one[seed] - base[seed]) for seed in sorted(one) if seed in base)
    if not values:
        return None
    return Difference(values, student_interval(values), student_interval(values, 1 - 0.05 / max(comparisons, 1)))
