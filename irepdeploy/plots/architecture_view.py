"""Data for drawing an Architecture: channels of its layers, stages, and the difference of two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from irepdeploy.errors import ArchitectureError
from irepdeploy.reparam.architecture import Architecture

__all__ = ["ArchitectureView", "Difference", "difference", "in_column_order", "stages_of"]

_FIRST_NUMBER = re.compile(r"[^0-9]*[0-9]+(?=[^0-9]|$)")


@dataclass(frozen=True)
class ArchitectureView:
    """An Architecture with the known facts about its network.

    Attributes:
        label: Label for the drawing.
        architecture: The Architecture.
        possible: Indices (layer, branch) of the possible branches; None if unknown, which counts as all.
        channels: Input channels, output channels and stride by layer.
    """

    label: str
    architecture: Architecture
    possible: frozenset[tuple[int, int]] | None = None
    channels: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of possible branches."""
        rows, columns = len(self.architecture.layers), len(self.architecture.branches)
        return rows * columns if self.possible is None else len(self.possible)

    @property
    def stages(self) -> tuple[int, ...]:
        """The index of the first layer of each stage."""
        return stages_of(self.architecture.layers, self.channels)


@dataclass(frozen=True)
class Difference:
    """Two Architectures over the union of their layers and branches, where a missing branch counts as dropped.

    `first` and `second` are rows of 0 and 1. `only` maps each layer that only one Architecture has to the index of that
    Architecture, 0 or 1.
    """

    layers: tuple[str, ...]
    branches: tuple[str, ...]
    first: tuple[tuple[int, ...], ...]
    second: tuple[tuple[int, ...], ...]
    only: Mapping[str, int]

    @property
    def distance(self) -> int:
        """The Hamming distance: the number of branches that exactly one of them keeps."""
        return sum(
            a != b for one, two in zip(self.first, self.second, strict=True) for a, b in zip(one, two, strict=True)
        )


def stages_of(layers: Sequence[str], channels: Mapping[str, tuple[int, int, int]] | None = None) -> tuple[int, ...]:
    """Return the index of the first layer of each stage.

    The layers of a stage share their name up to its first number (``layer1.``, ``stages.0.``) or, if that would make
    every layer a stage, their number of output channels.
    """
    keys: list[Any] = [found[0] if (found := _FIRST_NUMBER.match(name)) else name for name in layers]
    starts = _changes(keys)
    if len(starts) == len(layers) > 1:
        known = channels or {}
        starts = _changes([known[name][1] if name in known else None for name in layers])
    return starts


def difference(first: Architecture, second: Architecture) -> Difference:
    """Compare two Architectures over the union of their layers and branches, in the order of the first.

    Raises:
        InputError: They have no layer in common.
    """
    if not set(first.layers) & set(second.layers):
        raise ArchitectureError(
            f"the two Architectures have no layer in common: {first.layers[0]} and {second.layers[0]} are the first",
            hint="compare those of one network",
        )
    layers = _merged(first.layers, second.layers)
    branches = tuple(dict.fromkeys((*first.branches, *second.branches)))
    rows = []
    for one in (first, second):
        kept = {layer: set(one.kept(layer)) for layer in one.layers}
        rows.append(tuple(tuple(int(name in kept.get(layer, ())) for name in branches) for layer in layers))
    only = {
        layer: int(layer in second.layers) for layer in layers if (layer in first.layers) != (layer in second.layers)
    }
    return Difference(layers, branches, rows[0], rows[1], only)


def in_column_order(names: Iterable[str]) -> list[str]:
    """Return branches in irepdeploy's usual order, followed by unknown ones in alphabetical order."""
    from irepdeploy.reparam.branches import BRANCHES

    given = set(names)
    return [*(name for name in BRANCHES if name in given), *sorted(given - set(BRANCHES))]


def _merged(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Merge two lists of names; a name that only the second has comes before the next one that both have."""
    names = list(first)
    at = len(names)
    for name in reversed(second):
        if name in first:
            at = min(at, names.index(name))
        else:
            names.insert(at, name)
    return tuple(names)


def _changes(keys: Sequence[Any]) -> tuple[int, ...]:
    return tuple(index for index, key in enumerate(keys) if index == 0 or key != keys[index - 1])
