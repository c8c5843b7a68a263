"""Collapse one region: plan it, build and prove its units, and report the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from irepdeploy.onnx_collapse.builder import Border, build
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.emit import Names
from irepdeploy.onnx_collapse.graph import FLOATS, Operator
from irepdeploy.onnx_collapse.plan import STOPPED, Planner
from irepdeploy.onnx_collapse.proof import Proof, prove
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.region import LinearRegion
from irepdeploy.onnx_collapse.report import Region
from irepdeploy.onnx_collapse.rewrite import Replacement, rounded
from irepdeploy.onnx_collapse.unit import Unit, Units

__all__ = ["RegionCollapser"]


@dataclass
class _Row:
    """Operators described by one row of the report, their replacement if any, and reasons why tensors were kept."""

    operators: Sequence[Operator]
    replacement: Replacement | None = None
    proof: Proof | None = None
    reasons: dict[str, None] = field(default_factory=dict)


class RegionCollapser:
    """Collapses one region.

    Args:
        region: The region.
        context: The graph.
        names: Creates new names.
        border: How to treat a region that differs from a convolution at its border; see `collapse`.
        said: Tensors and operators whose reason was already reported; it is extended in place.

    Attributes:
        replacements: Replacements of operators, available after a call of `rows`.
    """

    def __init__(self, region: LinearRegion, context: Context, names: Names, border: Border, said: set[str]) -> None:
        self.region, self.context, self.names, self.border, self.said = region, context, names, border, said
        self.numeric = replace(context, numeric=True)
        self.units = Units(region, context)
        self.replacements: list[Replacement] = []
        self._rows: list[_Row] = []
        self._row_of: dict[int, _Row] = {}
        self._kept: dict[str, str] = {}
        self._stopped = False

    def rows(self) -> list[Region]:
        """Collapse the region and return its rows of the report: those of replaced parts, then those of the rest."""
        self._collapse()
        self.replacements = [row.replacement for row in self._rows if row.replacement is not None]
        self._add_left()
        self._add_reasons()
        said = [row for row in self._rows if row.replacement is not None or row.reasons]
        return [self._region(row) for row in said]

    def _collapse(self) -> None:
        """Plan, build and prove the units; if a unit cannot be built exactly, keep some tensors and plan it again."""
        waiting: list[tuple[Sequence[Operator], Collection[str]]] = [(self.region.operators, self.region.needed)]
        while waiting:
            planner = Planner(self.units, *waiting.pop())
            self._kept |= planner.reasons()
            self._stopped = self._stopped or planner.stopped
            for unit in planner.plan:
                if not unit.replace:
                    continue
                try:
                    row = self._built(unit)
                except Refusal as refusal:
                    inner = {name for item in unit.operators for name in item.outputs if name}.difference(unit.results)
                    kept = inner.intersection(refusal.tensors or ()) or inner
                    self._kept |= dict.fromkeys(kept, refusal.reason)
                    waiting.append((unit.operators, kept.union(unit.results)))
                    continue
                self._rows.append(row)
                self._row_of.update((operator.index, row) for operator in unit.operators)
        self._rows.sort(key=lambda row: row.operators[-1].index)

    def _built(self, unit: Unit) -> _Row:
        built = build(unit, self.numeric, self.names, self.border)
        proof = prove(unit, built, self.numeric)
        kind = FLOATS[self.context.graph.shapes.type(unit.results[0])]
        replacement = Replacement(unit.operators, built.emitted, rounded(built.emitted.arrays, kind))
        return _Row(unit.operators, replacement, proof)

    def _add_left(self) -> None:
        """Add a row for each connected group of operators that were not replaced."""
        left = [operator for operator in self.region.operators if operator.index not in self._row_of]
        for operators in self.units.connected(left):
            row = _Row(operators)
            self._rows.append(row)
            self._row_of.update((operator.index, row) for operator in operators)

    def _add_reasons(self) -> None:
        """Add each reason to one row, preferably of an adjacent replaced part, since it explains why the part ends."""
        for operator in self.region.operators:
            own = self._row_of[operator.index]
            for name in operator.outputs:
                if self._kept.get(name):
                    rows = [own, *(self._row_of[item.index] for item in self.units.readers[name])]
                    row = next((row for row in rows if row.replacement is not None), own)
                    self._say(row, name, f"behind {operator.name!r}: {self._kept[name]}")
            for reason in self.region.neighbours.get(operator.index, ()):
                self._say(own, reason, reason)
        if self._stopped:
            self._rows[-1].reasons[STOPPED] = None

    def _say(self, row: _Row, key: str, reason: str) -> None:
        if key not in self.said:
            row.reasons[reason] = None
            if row.replacement is not None:
                self.said.add(key)

    def _region(self, row: _Row) -> Region:
        operators, maps, new = row.operators, self.units.maps, row.replacement
        before = after = Counter(operator.kind for operator in operators)
        macs = macs_after = sum(self.units.costs[operator.index].macs for operator in operators)
        if new is not None:
            after, macs_after = Counter(node.op_type for node in new.emitted.every_node), new.emitted.cost.macs
        own = {operator.index for operator in operators}
        given = dict.fromkeys(name for operator in operators for name in operator.outputs if name)
        read = dict.fromkeys(name for operator in operators for name in maps[operator.index])
        return Region(
            name=operators[-1].name,
            operators_in=dict(sorted(before.items())),
            operators_out=dict(sorted(after.items())),
            macs_before=macs,
            macs_after=macs_after,
            reason="; ".join(row.reasons),
            error_interior=None if row.proof is None else row.proof.interior,
            error_border=None if row.proof is None else row.proof.border,
            sources=tuple(name for name in read if name not in given),
            results=tuple(
                name for name in given
                if name in self.region.needed or any(item.index not in own for item in self.units.readers[name])
            ),
        )  # fmt: skip
