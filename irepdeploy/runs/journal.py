"""journal.jsonl: the events of a search or a training, from which every figure can be drawn again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictFloat, StrictInt, StrictStr, ValidationInfo, field_validator

from irepdeploy.errors import InputError
from irepdeploy.files import append_line, read_lines
from irepdeploy.runs.schema import Schema, validated

__all__ = ["JOURNAL", "Epoch", "Event", "Evolution", "Race", "SearchJournal", "SearchStart", "Start", "read_events"]

JOURNAL = "journal.jsonl"


class Event(Schema):
    """A line of a journal."""

    event: str
    time: StrictFloat | None = None

    def append(self, path: str | os.PathLike[str]) -> None:
        """Append the event as a line with the present time, flushed to the disk."""
        fields = self.model_dump(mode="json", exclude_unset=True)
        append_line(path, {"event": self.event, "time": round(time.time(), 3), **fields})


class Start(Event):
    """The first line of a run: its recipe with the scale applied, and everything else that its result depends on."""

    event: Literal["start"] = "start"
    recipe: dict[str, Any]
    threads: StrictInt | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    device: StrictStr = "cpu"
    devices: StrictInt = 1
    architecture: dict[str, Any] | None = None


class SearchStart(Start):
    """The first line of a search.

    Positions are (layer, branch) indices of the possible branches, in the order of a candidate's bits; a candidate
    keeps at most `budget` of them.
    """

    layers: tuple[StrictStr, ...]
    branches: tuple[StrictStr, ...]
    positions: tuple[tuple[StrictInt, StrictInt], ...]
    budget: StrictInt | None = None


class Epoch(Event):
    """An epoch of training; `phase` is written by a search, `val_accuracy` by a training."""

    event: Literal["epoch"] = "epoch"
    epoch: StrictInt
    phase: StrictStr | None = None
    loss: StrictFloat | None = None
    val_accuracy: StrictFloat | None = None
    images_per_second: StrictFloat | None = None


class Race(Schema):
    """How an evolution's candidates were raced; see `irepdeploy.search.evaluation.racing.RaceResult`."""

    dropped: tuple[StrictInt, ...]
    back: tuple[StrictInt, ...]
    images: tuple[StrictInt, ...]
    share: StrictFloat
    level: StrictFloat


class Evolution(Event):
    """A scored population: accuracy in [0, 1] and cross-entropy of each candidate on the search-validation set.

    `population` has the bits of each candidate as a string of 0 and 1, `alpha` is sigmoid(alpha) by position, `beta` is
    sigmoid(beta) by layer; old journals lack all three. `race` is None if the population was scored in full.
    """

    event: Literal["evolution"] = "evolution"
    index: StrictInt
    best: StrictFloat
    mean: StrictFloat
    accuracy: Annotated[tuple[StrictFloat, ...], Field(min_length=1)]
    loss: tuple[StrictFloat, ...] = ()
    population: tuple[StrictStr, ...] = ()
    alpha: tuple[StrictFloat, ...] = ()
    beta: tuple[StrictFloat, ...] = ()
    race: Race | None = None

    @property
    def diversity(self) -> float:
        """Mean Hamming distance between two candidates, divided by the number of possible branches."""
        size, places = len(self.population), len(self.population[0])
        if size < 2:
            return 0.0
        # A position that n of N keep differs in n (N - n) of the N (N - 1) / 2 pairs.
        ones = (sum(bits[place] == "1" for bits in self.population) for place in range(places))
        return sum(count * (size - count) for count in ones) / (size * (size - 1) / 2) / places


_KINDS: dict[str, tuple[type[Event], str]] = {
    "start": (Start, "the start of a run"),
    "epoch": (Epoch, "an epoch"),
    "evolution": (Evolution, "an evolution"),
}


def read_events(path: str | os.PathLike[str], what: str = "journal") -> Iterator[Event]:
    """Read the events of a journal. A torn last line is dropped with a log line; unknown events are skipped."""
    for number, value in read_lines(path, what):
        name = value.get("event") if isinstance(value, dict) else None
        if not isinstance(name, str) or name not in _KINDS:
            continue
        kind, described = _KINDS[name]
        if kind is Start and "positions" in value:
            kind, described = SearchStart, "the start of a search"
        yield validated(kind, value, described, where=f"{os.fspath(path)}, line {number}")


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
        return evolutions

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read the search in a folder, or its journal.jsonl itself."""
        path = Path(path)
        path = path / JOURNAL if path.is_dir() else path
        events = list(read_events(path, "journal of a search"))
        start = next((event for event in events if isinstance(event, Start)), None)
        if not isinstance(start, SearchStart):
            raise InputError("not the journal of a search", where=path, hint="`irepdeploy search` writes journal.jsonl")
        evolutions = [event for event in events if isinstance(event, Evolution)]
        if not evolutions:
            raise InputError("the search has not finished an evolution yet", where=path, hint="let it run on")
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
        """(layer, branch) indices of the possible branches, in the order of a candidate's bits."""
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
