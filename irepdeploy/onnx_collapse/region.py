"""Regions: linear operators connected by tensors that no other operator reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of

__all__ = ["LinearRegion", "find_regions"]


@dataclass(frozen=True)
class LinearRegion:
    """Connected linear operators.

    Attributes:
        operators: The operators, in order.
        needed: Tensors that must be kept.
        neighbours: Reasons why adjacent operators do not belong to the region, by the index of an operator of the
            region.
    """

    operators: tuple[Operator, ...]
    needed: frozenset[str]
    neighbours: Mapping[int, Sequence[str]] = field(default_factory=dict)


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
        needed = frozenset(name for operator in operators for name in operator.outputs if name in kept)
        found.append(LinearRegion(tuple(operators), needed, _neighbours(operators, reasons, context)))
    return found


def _neighbours(operators: Sequence[Operator], reasons: Mapping[int, str], context: Context) -> dict[int, list[str]]:
    graph = context.graph
    found: dict[int, list[str]] = {}
    for operator in operators:
        beside = [graph.producers.get(name) for name in operator.inputs]
        beside += [reader for name in operator.outputs for reader in graph.readers.get(name, [])]
        for other in beside:
            if other is not None and other.index in reasons and len(operators) >= rule_of(other.kind).reported_from:
                reason = f"{other.kind} {other.name!r}: {reasons[other.index]}"
                found.setdefault(operator.index, []).append(reason)
    return found


def _root(roots: dict[int, int], index: int) -> int:
    while roots[index] != index:
        roots[index] = roots[roots[index]]
        index = roots[index]
    return index
