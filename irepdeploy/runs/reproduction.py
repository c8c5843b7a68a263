"""Records of a reproduction, one line for each cell of its protocol, and paired differences between them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, StrictStr

from irepdeploy.errors import InputError
from irepdeploy.parsing.json_lines import append_line, read_lines
from irepdeploy.parsing.json_text import JsonError, unsealed
from irepdeploy.parsing.validation import validated
from irepdeploy.runs.result import SearchFigures, TrainingResult
from irepdeploy.runs.schema import Count, Digest, Loss, Number, Schema, Score
from irepdeploy.runs.spread import student_interval

__all__ = [
    "MARGIN",
    "MEASUREMENTS",
    "RECORDS",
    "Difference",
    "Measured",
    "ReproducedCell",
    "ReproducedRecord",
    "RescoredPopulation",
    "TimedPopulation",
    "append_cell",
    "paired",
    "read_cells",
    "read_measured",
    "reproduced_of",
]

RECORDS = "records.jsonl"
MEASUREMENTS = "measurements.jsonl"
MARGIN = 0.3
_KIND = "file of records of a reproduction"
# The score of each candidate, and its negative loss, which breaks ties.
Scores = tuple[tuple[Score, Loss], ...]


class ReproducedRecord(Schema):
    """The result for one cell of a protocol, with its time and machine."""

    protocol: StrictStr
    version: Number
    cell: StrictStr
    network: StrictStr
    condition: StrictStr
    arm: StrictStr
    place: Count
    seed: StrictInt
    recipe: dict[str, Any]
    created: StrictStr
    system: dict[str, Any]


class ReproducedCell(ReproducedRecord):
    """One training of a protocol: its settings and its result.

    `result.test_accuracy` is None in a trial, because a trial never reads the test set. `architecture` is the trained
    Architecture, or None if all branches of the preset were trained; `search` contains the figures of the search that
    found it. `structure` is the digest of the exported network; a runtime does the same work for all networks with the
    same digest.
    """

    stage: Literal["trial", "final", "candidate"]
    settings: dict[StrictStr, float | str]
    result: TrainingResult
    architecture: dict[str, Any] | None = None
    search: SearchFigures | None = None
    score: float | None = Field(default=None, allow_inf_nan=False)
    structure: Digest | None = None


class RescoredPopulation(ReproducedRecord):
    """The last population of a search, best first, scored again with the same shared weights.

    Attributes:
        images: Number of search-validation images.
        batches: Number of training batches for recomputing statistics.
        whole: Scores on all images, as in the search.
        halves: Scores on both halves of the images, for each random split.
        recalibrated: Scores on all images, with batch-normalization statistics from different batches each time.
    """

    stage: Literal["scoring"]
    images: Number
    batches: Number
    whole: Scores
    halves: tuple[tuple[Scores, Scores], ...]
    recalibrated: tuple[Scores, ...]


class TimedPopulation(ReproducedRecord):
    """Times of scoring a population in several ways, measured in turn.

    Attributes:
        population: Number of candidates, which share one fuse of all branches.
        images: Number of search-validation images on which each candidate was scored.
        batch: Images per forward pass of the fused networks.
        naive_batch: Images per forward pass of the other networks.
        chunk: Candidates per sample of the fused networks.
        naive_chunk: Candidates per sample of the other networks.
        samples_ns: Samples in ns by way of scoring.
        fuse_ns: Samples in ns of fusing every branch.
    """

    stage: Literal["timing"]
    population: Number
    images: Number
    batch: Number
    naive_batch: Number
    chunk: Number
    naive_chunk: Number
    samples_ns: dict[StrictStr, Annotated[tuple[Count, ...], Field(min_length=1)]]
    fuse_ns: Annotated[tuple[Count, ...], Field(min_length=1)]


Measured = RescoredPopulation | TimedPopulation
_MEASURED: dict[object, type[Measured]] = {"scoring": RescoredPopulation, "timing": TimedPopulation}


def append_cell(path: Path, cell: ReproducedRecord) -> None:
    """Append a record to a file; earlier lines are never changed."""
    append_line(path, cell.model_dump(mode="json"))


def read_cells(paths: Iterable[Path]) -> dict[str, ReproducedCell]:
    """Read the records of trainings, by cell name. If a cell has several records, the first one is used.

    Raises:
        InputError: A file cannot be read, or none of its lines is a record.
    """
    return {name: each for name, each in _read(paths).items() if isinstance(each, ReproducedCell)}


def read_measured(paths: Iterable[Path]) -> dict[str, Measured]:
    """Read the records of measurements, which are those that are not trainings, by cell name; see `read_cells`."""
    return {name: each for name, each in _read(paths).items() if isinstance(each, RescoredPopulation | TimedPopulation)}


def _read(paths: Iterable[Path]) -> dict[str, ReproducedRecord]:
    found: dict[str, ReproducedRecord] = {}
    for path in paths:
        for cell in read_lines(path, reproduced_of, _KIND, "record").values.values():
            found.setdefault(cell.cell, cell)
    return found


def reproduced_of(value: object, where: str) -> ReproducedRecord:
    """Return the record in a JSON value; `where` is its place for error messages."""
    try:
        value = unsealed(value)
    except JsonError as error:
        raise InputError(f"not a record: {error}", where=where) from None
    stage = value.get("stage") if isinstance(value, dict) else None
    kind: type[ReproducedRecord] = _MEASURED.get(stage, ReproducedCell) if isinstance(stage, str) else ReproducedCell
    return validated(kind, value, "a record of a reproduction", where=where)


@dataclass(frozen=True)
class Difference:
    """Differences of scores paired by seed, in percentage points, with Student's 95 % interval of their mean.

    `corrected` is the interval with Bonferroni's correction for all comparisons in the table.
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
        """The conclusion from the interval: "better", "worse", "within 0.3", or "undecided"."""
        if self.interval is None:
            return "undecided"
        low, high = self.interval
        side = "better" if low > 0 else "worse" if high < 0 else ""
        if side:
            held = self.corrected is not None and not self.corrected[0] <= 0 <= self.corrected[1]
            return side if held else f"{side}, alone"
        return f"within {MARGIN:g}" if low > -MARGIN and high < MARGIN else "undecided"


def paired(one: Mapping[int, float], base: Mapping[int, float], comparisons: int = 1) -> Difference | None:
    """Return the difference between two arms over their common seeds, in percentage points; None if there are none.

    Args:
        one: Scores in [0, 1] by seed.
        base: Scores of the reference arm by seed.
        comparisons: Number of differences in the table, for the correction.
    """
    values = tuple(100 * (one[seed] - base[seed]) for seed in sorted(one) if seed in base)
    if not values:
        return None
    return Difference(values, student_interval(values), student_interval(values, 1 - 0.05 / max(comparisons, 1)))
