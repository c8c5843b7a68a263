"""Regions: linear operators connected by tensors that no other operator reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of

__all__ = ["LinearRegion", "find_regions"]

# Most operators that are planned together. A longer chain is cut where one tensor carries everything.
_LONGEST = 150


@dataclass(frozen=True)
class LinearRegion:
    """Connected linear operators, the tensors that must be kept, and why neighbours are not part of it."""

    operators: tuple[Operator, ...]
    needed: frozenset[str]
    neighbours: tuple[str, ...] = field(default=())

    @property
    def given(self) -> set[str]:
        """Tensors that its operators compute."""
        return {name for operator in self.operators for name in operator.outputs if name}


def find_regions(context: Context) -> list[LinearRegion]:
    """Return all regions of the graph, in order."""
    graph = context.graph
    reasons: dict[int, str] = {}
    linear: dict[int, Operator] = {}
    for operator in graph.operators:
        reason = rule_of(operator.kind).obstacle(operator, context)
        if reason is None:
            linear[operator.index] = operator
        else:
            reasons[operator.index] = reason
    kept: set[str] = set()
    roots = {index: index for index in linear}
    for index, operator in linear.items():
        for name in filter(None, operator.outputs):
            readers = graph.readers.get(name, [])
            if name in graph.outputs or any(reader.index not in linear for reader in readers):
                kept.add(name)
                continue
            for reader in readers:
                first, last = sorted((_root(roots, index), _root(roots, reader.index)))
                roots[last] = first
    groups: dict[int, list[Operator]] = {}
    for index, operator in linear.items():
        groups.setdefault(_root(roots, index), []).append(operator)
    found = []
    for operators in groups.values():
        for part in _parts(operators, kept, context):
            given = {name for operator in part for name in operator.outputs if name}
            inside = {operator.index for operator in part}
            needed = {
                name
                for name in given
                if name in kept or any(reader.index not in inside for reader in graph.readers.get(name, []))
            }
            found.append(LinearRegion(tuple(part), frozenset(needed), _neighbours(part, reasons, context)))
    return found


def _parts(operators: list[Operator], kept: set[str], context: Context) -> list[list[Operator]]:
    """Cut a long region behind operators whose result is the only tensor read later."""
    if len(operators) <= _LONGEST:
        return [operators]
    last = {}
    for place, operator in enumerate(operators):
        for name in rule_of(operator.kind).maps(operator, context):
            last[name] = place
    parts, start, open_until = [], 0, 0
    for place, operator in enumerate(operators):
        for name in filter(None, operator.outputs[1:]):
            open_until = max(open_until, last.get(name, place))
        if place - start >= _LONGEST // 2 and open_until <= place:
            parts.append(operators[start : place + 1])
            start = place + 1
        if operator.outputs[0] not in kept:
            open_until = max(open_until, last.get(operator.outputs[0], place))
    return [*parts, operators[start:]] if start < len(operators) else parts


def _neighbours(operators: Sequence[Operator], reasons: dict[int, str], context: Context) -> tuple[str, ...]:
    graph = context.graph
    found: dict[str, None] = {}
    for operator in operators:
        beside = [graph.producers.get(name) for name in operator.inputs]
        beside += [reader for name in operator.outputs for reader in graph.readers.get(name, [])]
        for other in beside:
            if other is None or other.index not in reasons:
                continue
            if len(operators) >= rule_of(other.kind).reported_from:
                found[f"{other.kind} {other.name!r}: {reasons[other.index]}"] = None
    return tuple(found)


def _root(roots: dict[int, int], index: int) -> int:
    while roots[index] != index:
        roots[index] = roots[roots[index]]
        index = roots[index]
    return index
