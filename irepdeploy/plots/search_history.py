"""A search's journal: what was seen on the way, as numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.files import read_lines
from irepdeploy.reparam.architecture import Architecture

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SearchRun", "read_search", "read_search_folder"]


@dataclass(frozen=True)
class SearchRun:
    """What the pictures need of a search's journal.

    Args:
        start: the first line: recipe, layers, branches, positions (possible branches), budget.
        evolutions: one line each: index, best, mean, accuracy of every candidate.
    """

    start: Mapping[str, Any]
    evolutions: Sequence[Mapping[str, Any]]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(self.start["layers"])

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the candidate operations."""
        return tuple(self.start["branches"])

    @property
    def positions(self) -> list[tuple[int, int]]:
        """(layer, branch) indices of the possible branches, in the order of a candidate's bits."""
        return [(row, column) for row, column in self.start["positions"]]

    @property
    def possible(self) -> set[tuple[int, int]]:
        """(layer, branch) indices of the possible branches."""
        return set(self.positions)

    @property
    def strategy(self) -> str:
        """ "des" or "random"."""
        return str(self.start["recipe"]["search"]["strategy"])

    @property
    def net(self) -> tuple[str | None, dict[str, Any]]:
        """Name and arguments of the network, as the registry builds it for the data set; (None, {}) if not known."""
        from irepdeploy.data import dataset_facts

        recipe = self.start["recipe"]
        net = recipe.get("net") or {}
        facts = dataset_facts((recipe.get("data") or {}).get("name"))
        shape = {} if facts is None else {"input_shape": facts.input_shape}
        return net.get("name"), {**shape, **net.get("args", {})}

    @property
    def finished(self) -> bool:
        """Whether the last evolution of the recipe is there."""
        return len(self.evolutions) >= int(self.start["recipe"]["search"].get("evolutions", 0))

    def best_candidate(self) -> Architecture:
        """The candidate of the last evolution with the highest accuracy, of equals the one with the lowest loss.

        Raises:
            InputError: the journal is of an irepdeploy that did not write the population down.
        """
        last = self.evolutions[-1]
        if "population" not in last:
            raise InputError(
                "the journal does not hold the population", hint="best.json is written at the search's end"
            )
        losses = last.get("loss") or [0.0] * len(last["accuracy"])
        ranked = zip(last["accuracy"], (-loss for loss in losses), last["population"], strict=True)
        bits = max(ranked, key=lambda candidate: candidate[:2])[2]
        kept = {place for place, bit in zip(self.positions, bits, strict=True) if bit == "1"}
        matrix = tuple(
            tuple(int((row, column) in kept) for column in range(len(self.branches))) for row in range(len(self.layers))
        )
        return Architecture(self.layers, self.branches, matrix)

    # Each gives None where the journal does not hold it.

    def kept(self) -> np.ndarray[Any, Any] | None:
        """Share of the population that keeps a branch: (evolutions, layers, branches), NaN where it is not possible."""
        return self._by_position("population", _shares)

    def alpha(self) -> np.ndarray[Any, Any] | None:
        """sigmoid(alpha): (evolutions, layers, branches), NaN where a branch is not possible."""
        return self._by_position("alpha", list)

    def beta(self) -> np.ndarray[Any, Any] | None:
        """sigmoid(beta): (evolutions, layers)."""
        import numpy as np

        if not all("beta" in event for event in self.evolutions):
            return None
        return np.array([event["beta"] for event in self.evolutions], dtype=float)

    def diversity(self) -> list[float] | None:
        """Mean Hamming distance of two candidates of the population, by the number of possible branches."""
        if not all("population" in event for event in self.evolutions):
            return None
        return [_distance(event["population"]) for event in self.evolutions]

    def _by_position(self, key: str, values: Any) -> np.ndarray[Any, Any] | None:
        import numpy as np

        if not all(key in event for event in self.evolutions):
            return None
        full = np.full((len(self.evolutions), len(self.layers), len(self.branches)), np.nan)
        rows, columns = zip(*self.positions, strict=True)
        for index, event in enumerate(self.evolutions):
            full[index, rows, columns] = values(event[key])
        return full


def read_search(path: str | os.PathLike[str]) -> SearchRun:
    """Read a search's journal.jsonl.

    Raises:
        InputError: no such file, not the journal of a search, or no evolution in it yet.
    """
    events = [value for _, value in read_lines(path, "journal of a search") if isinstance(value, dict)]
    starts = [event for event in events if event.get("event") == "start"]
    if not starts or "positions" not in starts[0]:
        raise InputError("not the journal of a search", where=path, hint="`irepdeploy search` writes journal.jsonl")
    evolutions = [event for event in events if event.get("event") == "evolution"]
    if not evolutions:
        raise InputError("the search has not finished an evolution yet", where=path, hint="let it run on")
    run = SearchRun(starts[0], evolutions)
    if not all(_fits(run, event) for event in evolutions):
        raise InputError("an evolution in this journal is damaged", where=path, hint="begin the search anew")
    return run


def read_search_folder(folder: str | os.PathLike[str]) -> SearchRun:
    """Read the search in a folder, or its journal.jsonl itself.

    Raises:
        InputError: there is none, or no evolution in it yet.
    """
    path = Path(folder)
    return read_search(path if path.is_file() else path / "journal.jsonl")


def _fits(run: SearchRun, event: Mapping[str, Any]) -> bool:
    accuracy = event.get("accuracy")
    if not isinstance(accuracy, list) or not accuracy:
        return False
    sizes = {"population": len(accuracy), "alpha": len(run.positions), "beta": len(run.layers)}
    parts = {key: event[key] for key in sizes if key in event}
    return all(isinstance(part, list) and len(part) == sizes[key] for key, part in parts.items()) and all(
        isinstance(bits, str) and len(bits) == len(run.positions) for bits in parts.get("population", ())
    )


def _shares(population: Sequence[str]) -> list[float]:
    return [sum(bits[place] == "1" for bits in population) / len(population) for place in range(len(population[0]))]


def _distance(population: Sequence[str]) -> float:
    """Of a position that n of N keep, n (N - n) of the N (N - 1) / 2 pairs differ there."""
    size, places = len(population), len(population[0])
    if size < 2:
        return 0.0
    ones = (sum(bits[place] == "1" for bits in population) for place in range(places))
    return sum(count * (size - count) for count in ones) / (size * (size - 1) / 2) / places
