"""Genotype: the operations of a cell and their edges; published genotypes are in ``genotypes.json``.

Node 0 is the output of the second-to-last cell and node 1 that of the last cell. Each further node is the sum of
operations on earlier nodes, and the cell returns the concatenation of some of its nodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from irepdeploy.errors import ModelError, choices
from irepdeploy.network.nets.operations import OPERATION_SETS, OPERATIONS, OperationSet

__all__ = ["CellGenotype", "Genotype", "genotype_of"]

Edge = tuple[str, int]


@dataclass(frozen=True)
class CellGenotype:
    """Genotype of one cell.

    Attributes:
        nodes: For each node from 2 on, the operations that it sums, each with the node that the operation reads.
        concat: Nodes whose concatenation is the output.
    """

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]


@dataclass(frozen=True)
class Genotype:
    """Genotype of a network: one cell for all that keep the size and one for all that halve it, or one for each cell.

    Attributes:
        operations: How to build the operations.
        normal: The cell that keeps the size, or None.
        reduce: The cell that halves the size, or None.
        cells: One cell for each place, or ().
    """

    operations: OperationSet
    normal: CellGenotype | None = None
    reduce: CellGenotype | None = None
    cells: tuple[CellGenotype, ...] = ()

    def cell(self, index: int, reduction: bool) -> CellGenotype:
        """Return the genotype of the cell at this index."""
        if self.cells:
            return self.cells[index]
        cell = self.reduce if reduction else self.normal
        assert cell is not None
        return cell


def genotype_of(value: str | Mapping[str, Any]) -> Genotype:
    """Return a published genotype by name, or parse an object in the format of ``genotypes.json``.

    Raises:
        ModelError: The name is unknown, or the object is not valid.
    """
    if not isinstance(value, str):
        return _genotype(value, "genotype")
    published = _published()
    if value not in published:
        raise ModelError(f"unknown genotype {value!r}", hint=choices(value, published))
    return _genotype(published[value], value)


@cache
def _published() -> dict[str, Any]:
    text = resources.files("irepdeploy.network.nets").joinpath("genotypes.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _genotype(value: object, where: str) -> Genotype:
    value = _mapping(value, {"operations", "normal", "reduce", "cells", "source"}, where)
    kind = value.get("operations")
    if not isinstance(kind, str) or kind not in OPERATION_SETS:
        raise ModelError(f"unknown operations {kind!r}", where=where, hint=f"one of {', '.join(OPERATION_SETS)}")
    operations = OPERATION_SETS[kind]
    if ("cells" in value) == ("normal" in value) or ("normal" in value) != ("reduce" in value):
        raise ModelError(
            "cells are missing or given twice", where=where, hint='either "cells", or "normal" and "reduce"'
        )
    if "cells" in value:
        cells = _sequence(value["cells"], f"{where}: cells")
        return Genotype(
            operations, cells=tuple(_cell(cell, f"{where}: cell {index}") for index, cell in enumerate(cells))
        )
    return Genotype(operations, _cell(value["normal"], f"{where}: normal"), _cell(value["reduce"], f"{where}: reduce"))


def _cell(value: object, where: str) -> CellGenotype:
    value = _mapping(value, {"nodes", "concat"}, where)
    nodes: list[tuple[Edge, ...]] = []
    for number, edges in enumerate(_sequence(value.get("nodes"), where), 2):
        place = f"{where}: node {number}"
        nodes.append(tuple(_edge(edge, number, place) for edge in _sequence(edges, place)))
    concat = tuple(_sequence(value.get("concat"), f"{where}: concat"))
    count = len(nodes) + 2
    if not all(_is_node(node, count) for node in concat) or len(set(concat)) != len(concat):
        raise ModelError(f"expected distinct nodes from 0 to {count - 1} in concat, got {list(concat)!r}", where=where)
    return CellGenotype(tuple(nodes), concat)


def _edge(value: object, node: int, where: str) -> Edge:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ModelError(
            f"expected an operation and the node that it reads, got {value!r}", where=where, hint='["skip_connect", 0]'
        )
    name, source = value
    if not isinstance(name, str) or name not in OPERATIONS:
        raise ModelError(f"unknown operation {name!r}", where=where, hint=f"one of {', '.join(OPERATIONS)}")
    if not _is_node(source, node):
        raise ModelError(f"expected {name} to read a node from 0 to {node - 1}, got {source!r}", where=where)
    return name, source


def _is_node(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count


def _mapping(value: object, keys: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not set(value) <= keys:
        raise ModelError(f"expected an object with keys among {', '.join(sorted(keys))}", where=where)
    return value


def _sequence(value: object, where: str) -> list[Any]:
    if not isinstance(value, list | tuple) or not value:
        raise ModelError("expected a list that is not empty", where=where)
    return list(value)
