"""journal.jsonl: the events of a search or a training, from which every figure can be redrawn.

An invalid line is reported and skipped if the rest remains meaningful without it: an epoch may be missing, but not the
start or an evolution.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictInt, StrictStr, ValidationInfo, field_validator, model_validator

from irepdeploy.console import log
from irepdeploy.errors import InputError
from irepdeploy.parsing.json_lines import Lines, append_line, begin_lines, read_lines
from irepdeploy.parsing.json_text import JsonError, unsealed
from irepdeploy.parsing.validation import validated
from irepdeploy.runs.schema import ACCURACY, Amount, Count, Loss, MetricFacts, Number, Schema, Score, Share

__all__ = ["JOURNAL", "Epoch", "Event", "Evolution", "Race", "SearchJournal", "SearchStart", "Start", "read_events"]

JOURNAL = "journal.jsonl"

# The year 9999, in seconds.
_LATEST = 253_402_300_799.0
_ROUNDING = 1e-6
_Bits = Annotated[str, Field(pattern="^[01]*$", strict=True)]


class Event(Schema):
    """An event, stored as one line of a journal."""

    event: str
    time: Annotated[float, Field(strict=True, ge=0, le=_LATEST)] | None = None

    def append(self, path: str | os.PathLike[str]) -> None:
        """Append the event to a journal with the current time, flushed to disk."""
        append_line(path, self._line())

    def _line(self) -> dict[str, Any]:
        fields = self.model_dump(mode="json", exclude_unset=True)
        return {"event": self.event, "time": round(time.time(), 3), **fields}


class Start(Event):
    """The start of a run: the recipe after applying the scale, and everything else that affects the result.

    `metric` is the metric of all fields called accuracy in later events; None means accuracy itself. `launchers`
    identifies the torchrun processes that started the run; it is empty without torchrun.
    """

    event: Literal["start"] = "start"
    recipe: dict[str, Any]
    threads: StrictInt | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    device: StrictStr = "cpu"
    devices: Number = 1
    architecture: dict[str, Any] | None = None
    metric: MetricFacts | None = None
    launchers: tuple[StrictStr, ...] = ()

    @property
    def by(self) -> MetricFacts:
        """The metric; accuracy by default."""
        return self.metric or ACCURACY

    def begin(self, path: str | os.PathLike[str]) -> None:
        """Start a journal with this event, atomically replacing any existing one."""
        begin_lines(path, self._line())


class SearchStart(Start):
    """The start of a search.

    `positions` are the (layer, branch) indices of the possible branches, in the order of a candidate's bits. Each
    candidate keeps at most `budget` branches.
    """

    layers: tuple[StrictStr, ...]
    branches: tuple[StrictStr, ...]
    positions: Annotated[tuple[tuple[Count, Count], ...], Field(min_length=1)]
    budget: Count | None = None

    @field_validator("recipe")
    @classmethod
    def _names_a_strategy(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        search = recipe.get("search")
        if not isinstance(search, dict) or not isinstance(search.get("strategy"), str):
            raise ValueError("search.strategy is missing")
        if type(search.get("evolutions", 0)) is not int:
            raise ValueError(f"search.evolutions: expected a number, got {search['evolutions']!r}")
        return recipe

    @field_validator("positions")
    @classmethod
    def _are_in_the_matrix(cls, positions: tuple[tuple[int, int], ...], info: ValidationInfo) -> Any:
        rows, columns = (len(info.data.get(name, ())) for name in ("layers", "branches"))
        if not all(row < rows and column < columns for row, column in positions) or len({*positions}) < len(positions):
            raise ValueError(f"expected distinct places among {rows} layers and {columns} branches")
        return positions


class Epoch(Event):
    """An epoch of training. Only a search writes `phase`, and only a training writes `val_accuracy`."""

    event: Literal["epoch"] = "epoch"
    epoch: Count
    phase: StrictStr | None = None
    loss: Loss | None = None
    val_accuracy: Score | None = None
    images_per_second: Amount | None = None


class Race(Schema):
    """How an evolution's candidates were raced; see `irepdeploy.search.evaluation.racing.RaceResult`."""

    dropped: tuple[Count, ...]
    back: tuple[Count, ...]
    images: tuple[Count, ...]
    share: Share
    level: Share


class Evolution(Event):
    """A scored population: the accuracy (or score by another metric) and loss of each candidate on the validation set.

    `population` contains the bits of each candidate as a string of 0 and 1; `alpha` is sigmoid(alpha) by position, and
    `beta` is sigmoid(beta) by layer. Old journals lack these three fields. `race` is None if every candidate was scored
    on the whole set.
    """

    event: Literal["evolution"] = "evolution"
    index: Count
    best: Score
    mean: Score
    accuracy: Annotated[tuple[Score, ...], Field(min_length=1)]
    loss: tuple[Loss, ...] = ()
    population: tuple[_Bits, ...] = ()
    alpha: tuple[Share, ...] = ()
    beta: tuple[Share, ...] = ()
    race: Race | None = None

    @model_validator(mode="after")
    def _sums_up(self) -> Self:
        if self.best not in self.accuracy or abs(self.mean - fmean(self.accuracy)) > _ROUNDING * max(1, abs(self.mean)):
            raise ValueError("best and mean do not match accuracy")
        return self

    @property
    def diversity(self) -> float:
        """Mean Hamming distance between two candidates, divided by the number of possible branches."""
        size, places = len(self.population), len(self.population[0])
        if size < 2:
            return 0.0
        # If n of N candidates keep a branch, n (N - n) of the N (N - 1) / 2 pairs differ in it.
        ones = (sum(bits[place] == "1" for bits in self.population) for place in range(places))
        return sum(count * (size - count) for count in ones) / (size * (size - 1) / 2) / places


_KINDS: dict[str, tuple[type[Event], str]] = {
    "start": (Start, "the start of a run"),
    "epoch": (Epoch, "an epoch"),
    "evolution": (Evolution, "an evolution"),
}


def read_events(
    path: str | os.PathLike[str],
    what: str = "journal",
    *,
    strict: bool = False,
    note: Callable[[str], object] = log,
) -> list[Event]:
    """Read the events of a journal. Kinds of events added by a newer version are skipped.

    Args:
        path: The journal.
        what: Kind of file, for error messages.
        strict: Treat an invalid line as an error. Otherwise it is skipped with a note, unless it may be the start.
        note: Function that receives the notes.

    Raises:
        InputError: The file cannot be read, has two starts, or has an invalid line that must not be skipped.
    """
    lines = _read(path, what, strict=strict, note=note)
    return [event for event in lines.values.values() if event is not None]


def _read(
    path: str | os.PathLike[str], what: str, *, strict: bool = False, note: Callable[[str], object] = log
) -> Lines[Event | None]:
    lines = read_lines(path, _event_of, what, strict=strict, note=note)
    starts = [number for number, event in lines.values.items() if isinstance(event, Start)]
    if len(starts) > 1:
        raise InputError(f"two runs start in this journal, on lines {starts[0]} and {starts[1]}", where=path)
    if not starts and lines.faults:
        raise next(iter(lines.faults.values()))
    return lines


def _event_of(value: object, where: str) -> Event | None:
    name = value.get("event") if isinstance(value, dict) else None
    kind, described = _KINDS.get(name, (Event, "an event")) if isinstance(name, str) else (Event, "an event")
    if kind is Start and isinstance(value, dict) and "positions" in value:
        kind, described = SearchStart, "the start of a search"
    try:
        value = unsealed(value, kind.model_fields)
    except JsonError as error:
        raise InputError(f"not {described}: {error}", where=where) from None
    found = validated(kind, value, described, where=where)
    return None if kind is Event else found


class SearchJournal(Schema):
    """The journal of a search."""

    start: SearchStart
    evolutions: tuple[Evolution, ...]

    @field_validator("evolutions")
    @classmethod
    def _sizes_fit(cls, evolutions: tuple[Evolution, ...], info: ValidationInfo) -> tuple[Evolution, ...]:
        if "start" in info.data:
            for evolution in evolutions:
                _check_sizes(info.data["start"], evolution)
        for place, evolution in enumerate(evolutions):
            if evolution.index != place:
                raise ValueError(f"evolution {place} is {'repeated' if evolution.index < place else 'missing'}")
        return evolutions

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a search from its folder, or from its journal.jsonl.

        Raises:
            InputError: The file is not the journal of a search, is damaged, or contains no finished evolution.
        """
        path = Path(path)
        path = path / JOURNAL if path.is_dir() else path
        lines = _read(path, "journal of a search")
        events = list(lines.values.values())
        start = next((event for event in events if isinstance(event, Start)), None)
        if not isinstance(start, SearchStart):
            raise InputError("not the journal of a search", where=path, hint="`irepdeploy search` writes journal.jsonl")
        evolutions = sorted((event for event in events if isinstance(event, Evolution)), key=lambda each: each.index)
        if not evolutions and lines.faults:
            raise next(iter(lines.faults.values()))
        if not evolutions:
            raise InputError("the search has not finished an evolution yet", where=path, hint="let it continue")
        return validated(cls, {"start": start, "evolutions": evolutions}, "the journal of a search", where=path)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return self.start.layers

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the candidate operations."""
        return self.start.branches

    @property
    def positions(self) -> tuple[tuple[int, int], ...]:
        """The (layer, branch) indices of the possible branches, in the order of a candidate's bits."""
        return self.start.positions

    @property
    def strategy(self) -> str:
        """Name of the strategy, such as "des" or "random"."""
        return str(self.start.recipe["search"]["strategy"])

    @property
    def finished(self) -> bool:
        """Whether the journal contains the last evolution of the recipe."""
        return len(self.evolutions) >= int(self.start.recipe["search"].get("evolutions", 0))


def _check_sizes(start: SearchStart, evolution: Evolution) -> None:
    if start.metric is None or start.metric.unit == "%":
        for value in evolution.accuracy:
            if not 0 <= value <= 1:
                raise ValueError(f"evolution {evolution.index}: accuracy: expected a share from 0 to 1, got {value}")
    for field, size, what in (
        ("loss", len(evolution.accuracy), "candidates"),
        ("population", len(evolution.accuracy), "candidates"),
        ("alpha", len(start.positions), "possible branches"),
        ("beta", len(start.layers), "layers"),
    ):
        found = len(getattr(evolution, field))
        if found not in (0, size):
            raise ValueError(f"evolution {evolution.index}: {field}: expected {size} values ({what}), got {found}")
    for bits in evolution.population:
        if len(bits) != len(start.positions):
            raise ValueError(
                f"evolution {evolution.index}: population: expected {len(start.positions)} bits, got {len(bits)}"
            )
