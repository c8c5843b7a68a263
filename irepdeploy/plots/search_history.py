"""The journal of a search as arrays, for plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.journal import SearchJournal

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SearchRun"]


class SearchRun(SearchJournal):
    """The journal of a search, as arrays by evolution, layer and branch."""

    @property
    def net(self) -> tuple[str | None, dict[str, Any]]:
        """The name and arguments with which the registry builds the network for the data set; (None, {}) if unknown."""
        from irepdeploy.data import dataset_facts

        recipe = self.start.recipe
        net = recipe.get("net") or {}
        facts = dataset_facts((recipe.get("data") or {}).get("name"))
        shape = {} if facts is None else {"input_shape": facts.input_shape}
        return net.get("name"), {**shape, **net.get("args", {})}

    def best_candidate(self) -> Architecture:
        """Return the candidate of the last evolution with the highest accuracy, and the lowest loss among ties.

        Raises:
            InputError: The journal does not contain the population.
        """
        last = self.evolutions[-1]
        if not last.population:
            raise InputError(
                "the journal does not contain the population", hint="best.json is written at the search's end"
            )
        losses = last.loss or (0.0,) * len(last.accuracy)
        ranked = zip(last.accuracy, (-loss for loss in losses), last.population, strict=True)
        bits = max(ranked, key=lambda candidate: candidate[:2])[2]
        kept = {place for place, bit in zip(self.positions, bits, strict=True) if bit == "1"}
        matrix = tuple(
            tuple(int((row, column) in kept) for column in range(len(self.branches))) for row in range(len(self.layers))
        )
        return Architecture(self.layers, self.branches, matrix)

    # The following are None if the journal does not contain the data.

    def kept(self) -> np.ndarray[Any, Any] | None:
        """Share of the population that keeps each branch, (evolutions, layers, branches); NaN if it is not possible."""
        return self._by_position("population", _shares)

    def alpha(self) -> np.ndarray[Any, Any] | None:
        """sigmoid(alpha), (evolutions, layers, branches); NaN if a branch is not possible."""
        return self._by_position("alpha", list)

    def beta(self) -> np.ndarray[Any, Any] | None:
        """sigmoid(beta), (evolutions, layers)."""
        import numpy as np

        if not all(event.beta for event in self.evolutions):
            return None
        return np.array([event.beta for event in self.evolutions], dtype=float)

    def diversity(self) -> list[float] | None:
        """Mean Hamming distance between two candidates, divided by the number of possible branches, by evolution."""
        if not all(event.population for event in self.evolutions):
            return None
        return [event.diversity for event in self.evolutions]

    def _by_position(self, key: str, values: Callable[[Any], Sequence[float]]) -> np.ndarray[Any, Any] | None:
        import numpy as np

        if not all(getattr(event, key) for event in self.evolutions):
            return None
        full = np.full((len(self.evolutions), len(self.layers), len(self.branches)), np.nan)
        rows, columns = zip(*self.positions, strict=True)
        for index, event in enumerate(self.evolutions):
            full[index, rows, columns] = values(getattr(event, key))
        return full


def _shares(population: Sequence[str]) -> list[float]:
    return [sum(bits[place] == "1" for bits in population) / len(population) for place in range(len(population[0]))]
