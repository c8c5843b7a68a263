"""Units: operators that are replaced together or not at all, and the cost of their replacement, on structures alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.cost import Cost, form_cost, operator_cost
from irepdeploy.onnx_collapse.form import CANONICAL, Form
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.region import LinearRegion

__all__ = ["Arrangement", "Unit", "Units"]

# The most terms of a sum; otherwise the partial sums of a long residual chain would read all tensors before them.
_MOST_TERMS = 16


@dataclass(frozen=True, eq=False)
class Unit:
    """Operators connected by tensors that disappear if the operators are replaced.

    Attributes:
        operators: The operators, in order.
        results: Tensors that must be computed.
        before: Cost of the operators.
        after: Cost of their replacement.
        replace: Whether the operators are replaced.
    """

    operators: tuple[Operator, ...]
    results: tuple[str, ...]
    before: Cost
    after: Cost
    replace: bool

    @property
    def cost(self) -> Cost:
        """Cost of the operators that result from the unit."""
        return self.after if self.replace else self.before


@dataclass(frozen=True, eq=False)
class Arrangement:
    """A division of operators into units.

    Attributes:
        units: The units.
        kept: Tensors that the units keep.
        obstacles: Reasons why some of these tensors had to be kept.
    """

    units: tuple[Unit, ...]
    kept: frozenset[str]
    obstacles: dict[str, str]

    @cached_property
    def total(self) -> tuple[int, int]:
        """Total cost in MACs, and number of nodes."""
        return sum(unit.cost.total for unit in self.units), sum(unit.cost.nodes for unit in self.units)


class Units:
    """Divides the operators of one region into units; every form and every unit is computed only once.

    Attributes:
        maps: Names of the feature maps that each operator reads, by its index.
        producers: The operator that computes each tensor.
        readers: The operators that read each tensor.
        costs: Cost of each operator, by its index.
        work: Number of operators visited so far.
    """

    def __init__(self, region: LinearRegion, context: Context) -> None:
        self.region, self.context, self.work = region, context, 0
        self.maps = {item.index: tuple(rule_of(item.kind).maps(item, context)) for item in region.operators}
        self.producers = {name: item for item in region.operators for name in item.outputs if name}
        self.readers: dict[str, list[Operator]] = {name: [] for name in self.producers}
        for operator in region.operators:
            for name in dict.fromkeys(self.maps[operator.index]):
                if name in self.readers:
                    self.readers[name].append(operator)
        self.costs = {item.index: operator_cost(item, context) for item in region.operators}
        self._sources: dict[str, Form] = {}
        # Keyed by the identity of the input forms, which the values keep alive.
        self._applied: dict[tuple[int, ...], tuple[dict[str, Form] | Refusal, list[Form]]] = {}
        self._form_costs: dict[int, Cost] = {}
        self._units: dict[tuple[frozenset[int], frozenset[str]], Unit | dict[str, str]] = {}

    def arrange(self, operators: Sequence[Operator], kept: Iterable[str]) -> Arrangement:
        """Divide operators, given in order, so that tensors in `kept` and others that must be kept are computed."""
        kept, obstacles = set(kept), dict[str, str]()
        units: list[Unit] = []
        waiting = [list(operators)]
        while waiting:
            for group in self.connected(waiting.pop(), kept):
                found = self._unit(group, kept)
                if isinstance(found, Unit):
                    units.append(found)
                    continue
                kept.update(found)
                obstacles.update(found)
                waiting.append(group)
        return Arrangement(tuple(units), frozenset(kept), obstacles)

    def connected(self, operators: Iterable[Operator], kept: Collection[str] = ()) -> list[list[Operator]]:
        """Group operators by the tensors between them that are not kept."""
        group: dict[int, list[Operator]] = {}
        for operator in operators:
            own = [operator]
            for name in self.maps[operator.index]:
                producer = self.producers.get(name)
                if producer is None or name in kept or producer.index not in group:
                    continue
                other = group[producer.index]
                if other is own:
                    continue
                small, large = sorted((own, other), key=len)
                large += small
                for item in small:
                    group[item.index] = large
                own = large
            group[operator.index] = own
        found = {id(item): item for item in group.values()}
        return [sorted(item, key=lambda operator: operator.index) for item in found.values()]

    def _unit(self, operators: Sequence[Operator], kept: Collection[str]) -> Unit | dict[str, str]:
        """Return the operators as a unit, or further tensors that must be kept, with reasons."""
        self.work += len(operators)
        results = tuple(name for operator in operators for name in operator.outputs if name in kept)
        key = frozenset(operator.index for operator in operators), frozenset(results)
        if key not in self._units:
            self._units[key] = self._new_unit(operators, results)
        return self._units[key]

    def _new_unit(self, operators: Sequence[Operator], results: tuple[str, ...]) -> Unit | dict[str, str]:
        before = sum((self.costs[operator.index] for operator in operators), Cost())
        if len(operators) == 1:
            return Unit(tuple(operators), results, before, before, replace=False)
        forms, obstacles = self._propagate(operators, set(results))
        if obstacles:
            return obstacles
        after = sum((self._form_cost(forms[name]) for name in results), Cost())
        return Unit(tuple(operators), results, before, after, before.accepts(after))

    def _propagate(self, operators: Sequence[Operator], kept: set[str]) -> tuple[dict[str, Form], dict[str, str]]:
        """Return the forms of all tensors, and further tensors that must be kept, with reasons.

        These and the tensors in `kept` are sources for later operators.
        """
        forms: dict[str, Form] = {}
        obstacles: dict[str, str] = {}
        for operator in operators:
            names = self.maps[operator.index]
            inner = {name for name in names if name in forms and name not in kept}
            while True:
                try:
                    own = {name: forms[name] if name in inner else self._source(name) for name in names}
                    found = self._apply(operator, own)
                    for name, form in found.items():
                        if name in kept and form.layout != CANONICAL:
                            raise Refusal("its result is transposed")
                        if len(form.terms) > _MOST_TERMS:
                            raise Refusal(f"merged it would be a sum of {len(form.terms)} tensors")
                except Refusal as refusal:
                    outputs = {name for name in operator.outputs if self.readers.get(name)} - kept
                    must = inner.intersection(refusal.tensors or ()) or inner or outputs
                    obstacles.update(dict.fromkeys(must, refusal.reason))
                    kept, inner = kept | must, inner - must
                    if must is outputs:
                        break
                    continue
                forms.update(found)
                break
        return forms, obstacles

    def _apply(self, operator: Operator, own: dict[str, Form]) -> dict[str, Form]:
        inputs = list(own.values())
        key = (operator.index, *map(id, inputs))
        if key not in self._applied:
            found: dict[str, Form] | Refusal
            try:
                found = rule_of(operator.kind).apply(operator, own, self.context)
            except Refusal as refusal:
                found = refusal
            self._applied[key] = found, inputs
        found, _ = self._applied[key]
        if isinstance(found, Refusal):
            # Raise a copy, because an exception that is raised again keeps the frames of all previous times.
            raise Refusal(found.reason, found.tensors)
        return found

    def _source(self, name: str) -> Form:
        if name not in self._sources:
            self._sources[name] = self.context.form(name)
        return self._sources[name]

    def _form_cost(self, form: Form) -> Cost:
        if id(form) not in self._form_costs:
            self._form_costs[id(form)] = form_cost(form)
        return self._form_costs[id(form)]
