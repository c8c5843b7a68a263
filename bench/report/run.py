"""A search or a training as read from its folder, finished or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.folders import is_held
from irepdeploy.parsing.validation import validated
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.journal import JOURNAL, Epoch, Evolution, SearchStart, Start, read_events
from irepdeploy.runs.result import ScoreSet, SearchFigures, TrainingResult, read_result
from irepdeploy.runs.schema import MetricFacts

__all__ = ["Run", "labels_of", "read_run"]


@dataclass(frozen=True)
class Run:
    """A search or a training.

    Attributes:
        label: Name of the run, unique on the page.
        result: Figures of the run, once it has finished.
        held: Whether the run is in progress.
    """

    folder: Path
    label: str
    start: Start
    epochs: tuple[Epoch, ...]
    evolutions: tuple[Evolution, ...]
    result: SearchFigures | TrainingResult | None
    held: bool

    @property
    def is_search(self) -> bool:
        """Whether the run is a search; otherwise it is a training or a fine-tuning."""
        return isinstance(self.start, SearchStart)

    @property
    def kind(self) -> str:
        """Kind of the run as text."""
        if self.is_search:
            return f"search ({self._recipe('search', 'strategy')})"
        return "training"

    @property
    def metric(self) -> MetricFacts:
        """Metric of the scores."""
        return self.start.by

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self._recipe("data", "name") or self._recipe("data", "factory")

    @property
    def network(self) -> str:
        """Name of the network."""
        return self._recipe("net", "name") or self._recipe("net", "factory")

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return self.result is not None

    @property
    def state(self) -> str:
        """Progress of the run as text."""
        if self.finished:
            return "finished"
        state = "running" if self.held else "stopped"
        if self.is_search:
            done = f"evolution {len(self.evolutions)}" if self.evolutions else f"epoch {len(self.epochs)}"
            due = self._recipe("search", "evolutions") if self.evolutions else ""
        else:
            done, due = f"epoch {len(self.epochs)}", self._recipe("train", "epochs")
        return f"{state}, {done}" + (f" of {due}" if due else "")

    @property
    def branches(self) -> int | None:
        """Number of branches of the result, or of the Architecture that is trained."""
        if self.result is not None:
            return self.result.branches
        return None if self.architecture is None else self.architecture.count

    @property
    def score(self) -> float | None:
        """Score on the test set if there is one, else the best one on the search-validation set."""
        if isinstance(self.result, TrainingResult) and self.result.test_accuracy is not None:
            return self.result.test_accuracy
        if self.result is not None:
            return self.result.val_accuracy
        found = [event.best for event in self.evolutions]
        found += [event.val_accuracy for event in self.epochs if event.val_accuracy is not None]
        return max(found, default=None)

    @property
    def tested(self) -> bool:
        """Whether `score` is from the test set."""
        return isinstance(self.result, TrainingResult) and self.result.test_accuracy is not None

    def is_like(self, other: Run) -> bool:
        """Return whether the score is from the same data, set and metric as that of another run."""
        return (self.data, self.metric, self.tested) == (other.data, other.metric, other.tested)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of `score` from the sampling of its set, if known."""
        sets: Mapping[str, ScoreSet] = self.result.sets if isinstance(self.result, TrainingResult) else {}
        found = sets.get("test" if self.tested else "val")
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    @property
    def seconds(self) -> float | None:
        """Duration of a finished run."""
        return None if self.result is None else self.result.seconds

    @cached_property
    def history(self) -> SearchRun | None:
        """A search's evolutions as arrays; None before the first one, and for a training."""
        if not isinstance(self.start, SearchStart) or not self.evolutions:
            return None
        ordered = sorted(self.evolutions, key=lambda event: event.index)
        whole = {"start": self.start, "evolutions": ordered}
        return validated(SearchRun, whole, "the journal of a search", where=self.folder / JOURNAL)

    @cached_property
    def architecture(self) -> Architecture | None:
        """Architecture chosen by a search (so far) or used by a training; None if unknown."""
        if (self.folder / "best.json").is_file():
            return Architecture.load(self.folder / "best.json")
        if self.history is not None and self.evolutions[-1].population:
            return self.history.best_candidate()
        return None if self.start.architecture is None else Architecture.from_dict(self.start.architecture)

    def _recipe(self, part: str, name: str) -> str:
        inner = self.start.recipe.get(part)
        value: Any = inner.get(name) if isinstance(inner, Mapping) else None
        return "" if value is None else str(value)


def read_run(folder: Path, label: str, note: Callable[[str], object]) -> Run | None:
    """Read the run in a folder; return None if it has no events yet.

    Raises:
        InputError: The journal or the result is damaged.
    """
    events = read_events(folder / JOURNAL, note=note)
    start = next((event for event in events if isinstance(event, Start)), None)
    if start is None:
        raise InputError("not the journal of a run: no start", where=folder / JOURNAL)
    run = Run(
        folder=folder,
        label=label,
        start=start,
        # If an epoch was repeated after a kill, the last one counts.
        epochs=tuple({(event.phase, event.epoch): event for event in events if isinstance(event, Epoch)}.values()),
        evolutions=tuple(event for event in events if isinstance(event, Evolution)),
        result=read_result(folder),
        held=is_held(folder),
    )
    # Sizes must be consistent; check them now rather than while drawing the page.
    _ = run.history, run.architecture
    return run if run.epochs or run.evolutions or run.finished else None


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: the shortest unique suffix of its path."""
    parts = [folder.resolve().parts for folder in folders]
    others = set(parts)
    found = []
    for mine in parts:
        ends = (mine[-length:] for length in range(1, len(mine) + 1))
        alone = (end for end in ends if sum(each[-len(end) :] == end for each in others) == 1)
        found.append("/".join(next(alone, mine)))
    return found
