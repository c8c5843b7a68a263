"""Plans: which inner tensors of a region are kept, so that the operators between them become one convolution each.

Merging everything is often the most expensive plan: a 1x1 bottleneck, or a depthwise convolution before a 1x1, grows by
an order of magnitude. The cheapest set of kept tensors is searched on structures, without numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.cost import Cost, form_cost, operator_cost
from irepdeploy.onnx_collapse.form import CANONICAL, Form
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.region import LinearRegion

__all__ = ["Plan", "PlanTooLong", "Planner", "Unit"]

# Up to this many undecided tensors are tried in every combination; more are decided one by one.
_ALL_COMBINATIONS = 4
_SWEEPS = 3
# The most operators applied while one region is planned: counted, not timed, so that a slow machine plans the same.
MOST_WORK = 2_000_000


@dataclass(frozen=True)
class Unit:
    """Operators that are replaced together or not at all, and the tensors that the unit must compute."""

    operators: tuple[Operator, ...]
    results: tuple[str, ...]
    before: Cost
    after: Cost
    replace: bool


@dataclass(frozen=True)
class Plan:
    """A partition of a region into units: `cuts` are the tensors kept, `alone` the operators merged with no other."""

    units: tuple[Unit, ...]
    cuts: frozenset[str]
    reasons: Mapping[str, str]
    alone: frozenset[int] = frozenset()

    @property
    def total(self) -> tuple[int, int]:
        """Cost in MACs and number of nodes."""
        parts = [unit.after if unit.replace else unit.before for unit in self.units]
        return sum(part.total for part in parts), sum(part.nodes for part in parts)


class Planner:
    """Searches the cheapest plan of one region, in a context without numbers."""

    def __init__(self, region: LinearRegion, context: Context) -> None:
        self.region, self.context = region, context
        self._given = region.given
        self._costs = {operator.index: operator_cost(operator, context) for operator in region.operators}
        self._sources: dict[str, Form] = {}
        self._plans: dict[frozenset[str], Plan] = {}
        self._work = 0

    def merged(self, cuts: Mapping[str, str]) -> Plan:
        """Return the plan that keeps as few tensors as possible: those in `cuts` and the ones that these require."""
        return self._plan(frozenset(cuts), cuts)

    def best(self, cuts: Mapping[str, str]) -> Plan:
        """Return the cheapest plan that keeps `cuts`, given as reasons by tensor."""
        start = self.merged(cuts)
        undecided = self._undecided(start)
        plans = [start]
        if len(undecided) <= _ALL_COMBINATIONS:
            for count in range(1, len(undecided) + 1):
                plans += [
                    self._plan(start.cuts | frozenset(chosen), start.reasons)
                    for chosen in itertools.combinations(undecided, count)
                ]
        else:
            plans.append(self._swept(start, undecided))
            plans.append(self._swept(self._plan(start.cuts | frozenset(undecided), start.reasons), undecided))
        return min(plans, key=lambda plan: (plan.total, len(plan.cuts)))

    def _swept(self, plan: Plan, undecided: Sequence[str]) -> Plan:
        """Decide one tensor after the other, as long as the cost falls."""
        for _ in range(_SWEEPS):
            before = plan
            for name in undecided:
                other = self._plan(plan.cuts ^ {name}, plan.reasons)
                if (other.total, len(other.cuts)) < (plan.total, len(plan.cuts)):
                    plan = other
            if plan is before:
                break
        return plan

    def _undecided(self, plan: Plan) -> list[str]:
        """Return tensors behind which merging may enlarge a kernel or duplicate work."""
        graph = self.context.graph
        found = []
        for name, form in self._propagate(plan.cuts, plan.alone).items():
            readers = graph.readers.get(name, [])
            kept = name in plan.cuts or name in self.region.needed
            padded = graph.producers[name].kind == "Pad"  # the tensor that it pads is decided instead
            if not readers or kept or padded or (len(readers) == 1 and rule_of(readers[0].kind).per_element):
                continue
            if not all(term.per_element for term in form.terms.values()):
                found.append(name)
        return found

    def _plan(self, cuts: frozenset[str], reasons: Mapping[str, str]) -> Plan:
        """Return the plan that keeps `cuts` and every tensor that must be kept besides."""
        key, known = cuts, dict(reasons)
        if key in self._plans:
            return self._plans[key]
        alone: set[int] = set()
        while True:
            try:
                forms = self._propagate(cuts, alone)
                break
            except _Obstacle as obstacle:
                if obstacle.tensors:
                    known.update(dict.fromkeys(obstacle.tensors, obstacle.reason))
                    cuts |= frozenset(obstacle.tensors)
                else:
                    alone.add(obstacle.operator.index)
                    cuts |= frozenset(name for name in obstacle.operator.outputs if name in self._given)
        plan = Plan(tuple(self._units(forms, cuts, alone)), cuts - self.region.needed, known, frozenset(alone))
        self._plans[key] = plan
        return plan

    def _propagate(self, cuts: frozenset[str], alone: Iterable[int] = ()) -> dict[str, Form]:
        """Return the forms of all tensors; those in `cuts` and the needed ones are sources for later operators."""
        forms: dict[str, Form] = {}
        kept = cuts | self.region.needed
        for operator in self.region.operators:
            if operator.index in alone:
                continue
            rule = rule_of(operator.kind)
            names = rule.maps(operator, self.context)
            own = {name: forms[name] for name in names if name in forms and name not in kept}
            try:
                for name in names:
                    if name not in own:
                        own[name] = self._source(name)
                self._work += 1
                if self._work > MOST_WORK:
                    raise PlanTooLong(f"planning {len(self.region.operators):,} operators takes too long")
                found = rule.apply(operator, own, self.context)
                for name, form in found.items():
                    if name in kept and form.layout != CANONICAL:
                        raise Refusal("its result is transposed")
            except Refusal as refusal:
                inner = [name for name in dict.fromkeys(names) if name in forms and name not in kept]
                named = [name for name in refusal.tensors or () if name in inner]
                raise _Obstacle(operator, named or inner, refusal.reason) from None
            forms.update(found)
        return forms

    def _source(self, name: str) -> Form:
        if name not in self._sources:
            self._sources[name] = self.context.form(name)
        return self._sources[name]

    def _units(self, forms: Mapping[str, Form], cuts: frozenset[str], alone: set[int]) -> list[Unit]:
        """Group operators by the kept tensor that they serve; those that serve several form one unit."""
        kept = (cuts | self.region.needed) & self._given
        producers = {name: operator for operator in self.region.operators for name in operator.outputs if name}
        serves: dict[int, set[str]] = {operator.index: set() for operator in self.region.operators}
        for operator in reversed(self.region.operators):
            for name in filter(None, operator.outputs):
                if name in kept:
                    serves[operator.index].add(name)
            for name in rule_of(operator.kind).maps(operator, self.context):
                if name in producers and name not in kept:
                    serves[producers[name].index] |= serves[operator.index]
        together: dict[str, set[str]] = {name: {name} for name in kept}
        for names in serves.values():
            joined = set().union(*(together[name] for name in names))
            for name in joined:
                together[name] = joined
        members: dict[frozenset[str], list[Operator]] = {}
        for operator in self.region.operators:
            names = serves[operator.index]
            members.setdefault(frozenset(together[next(iter(names))]) if names else frozenset(), []).append(operator)
        units = []
        for results, operators in members.items():
            before = sum((self._costs[operator.index] for operator in operators), Cost())
            ordered = tuple(name for operator in operators for name in operator.outputs if name in results)
            possible = len(operators) > 1 and all(name in forms for name in ordered)
            after = sum((form_cost(forms[name]) for name in ordered), Cost()) if possible else before
            units.append(Unit(tuple(operators), ordered, before, after, possible and before.accepts(after)))
        return units


class PlanTooLong(Exception):
    """Planning a region takes more work than is allowed; the region is left alone."""


class _Obstacle(Exception):
    """An operator that cannot be merged unless `tensors` are kept; without any, it stays alone."""

    def __init__(self, operator: Operator, tensors: Sequence[str], reason: str) -> None:
        super().__init__(reason)
        self.operator, self.tensors, self.reason = operator, tensors, reason
