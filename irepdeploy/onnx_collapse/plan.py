"""Plans: which inner tensors of a region to keep, so that the operators between them become one convolution each.

Merging everything is often the most expensive plan: a 1x1 bottleneck, a depthwise convolution before a 1x1, or a sum
that several operators read can grow by an order of magnitude. The search therefore starts by keeping every tensor at
which this may happen, and merges across one of them, or across several in sequence or in parallel, if that is cheaper.
Each step considers only the adjacent units, so that the time of the search is proportional to the size of the region.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence

from irepdeploy.onnx_collapse.cost import Cost
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.unit import Arrangement, Unit, Units

__all__ = ["STOPPED", "Planner"]

STOPPED = "planning took too long; the best plan found until then is used"

# Number of consecutive kept tensors to merge across at once. More than one pays off for an expansion between
# reductions.
_LEVELS = 4
# The largest region that is also tried as one unit.
_WHOLE = 150
_SWEEPS = 3
# Limit on the operators visited while planning a region, per operator of the region. Work is counted instead of timed,
# so that a slow machine makes the same plan.
MOST_WORK = 4_000


class Planner:
    """Searches for the cheapest units of some operators of a region, in a context without numbers.

    Args:
        units: Units of the region.
        operators: The operators, in order.
        kept: Tensors that these operators must compute.

    Attributes:
        kept: These tensors, and those that are kept because that is cheaper.
    """

    def __init__(self, units: Units, operators: Sequence[Operator], kept: Collection[str]) -> None:
        self.units, self.operators = units, operators
        self._fixed = frozenset(kept)
        open_tensors = [name for item in operators for name in item.outputs if name and self._is_open(name)]
        start = units.arrange(operators, self._fixed | set(open_tensors))
        self.kept = set(start.kept)
        self._unit_of = {operator.index: unit for unit in start.units for operator in unit.operators}
        self._search()

    @property
    def stopped(self) -> bool:
        """Whether the search was stopped early because it needed too much work."""
        return self.units.work > MOST_WORK * len(self.units.region.operators)

    @property
    def plan(self) -> list[Unit]:
        """The units that were found, in order."""
        return list(dict.fromkeys(self._unit_of[operator.index] for operator in self.operators))

    def reasons(self) -> dict[str, str]:
        """Return the reason for each tensor that is kept although it need not be."""
        return {name: self._reason(name) for name in self._undecided()}

    def _undecided(self) -> list[str]:
        """Return the tensors that are kept although they need not be, in order."""
        names = (name for item in self.operators for name in item.outputs)
        return [name for name in names if name in self.kept and name not in self._fixed]

    def _reason(self, name: str) -> str:
        """Return why merging across a tensor, alone or with adjacent ones, is impossible or more expensive."""
        reader = self.units.readers[name][0]
        for names in ([name], *self._windows(self._unit_of[reader.index])):
            around = self._around(names)
            found = self._merged(around, set(names))
            if not found.obstacles:
                return _instead(found, around)
            if found.obstacles.get(name):
                return found.obstacles[name]
        return ""

    def _is_open(self, name: str) -> bool:
        """Return whether merging across a tensor may enlarge a kernel or duplicate work."""
        readers, producer = self.units.readers[name], self.units.producers[name]
        if name in self._fixed or not readers or producer.kind == "Pad":  # the input of a Pad is open instead
            return False
        if len(readers) > 1:
            return True
        reader = rule_of(readers[0].kind)
        sums = [len(self.units.maps[item.index]) > 1 for item in (producer, readers[0])]
        # A factor after a sum would be written once for each of its terms.
        return not reader.moves and (not reader.per_element or sums == [True, False])

    def _search(self) -> None:
        """Visit units until nothing becomes cheaper."""
        waiting = OrderedDict.fromkeys(self.plan)
        while waiting and not self.stopped:
            unit, _ = waiting.popitem(last=False)
            if self._is_current(unit):
                waiting.update(dict.fromkeys(self._improve(unit)))
        undecided = self._undecided()
        if len(self.operators) <= _WHOLE and len(undecided) > 1 and not self.stopped:
            self._attempt(undecided)

    def _is_current(self, unit: Unit) -> bool:
        return self._unit_of[unit.operators[0].index] is unit

    def _improve(self, unit: Unit) -> list[Unit]:
        """Merge a unit with preceding ones if that is cheaper, and return the new units and their readers."""
        for level, names in enumerate(self._windows(unit)):
            tries = [names] if level or len(names) == 1 else [names, *([name] for name in names)]
            for across in tries:
                if self._attempt(across):
                    found = [self._unit_of[item.index] for item in (*unit.operators, *self._near(across))]
                    readers = (item for each in found for name in each.results for item in self.units.readers[name])
                    return [*found, *(self._unit_of[item.index] for item in readers if item.index in self._unit_of)]
        return []

    def _near(self, names: Iterable[str]) -> list[Operator]:
        """Return the operators that compute or read these tensors."""
        found = (item for name in names for item in (self.units.producers[name], *self.units.readers[name]))
        return [item for item in found if item.index in self._unit_of]

    def _windows(self, unit: Unit) -> Iterator[list[str]]:
        """Yield the kept tensors that a unit reads, then also those that their units read, and so on."""
        across: dict[str, None] = {}
        reached = [unit]
        for _ in range(_LEVELS):
            names = [name for unit in reached for name in self._inputs(unit) if name not in across]
            if not names:
                return
            across.update(dict.fromkeys(names))
            yield list(across)
            reached = self._around(names)

    def _attempt(self, names: Sequence[str]) -> bool:
        """Merge across all or some of these tensors if that is cheaper, and return whether it was."""
        around = self._around(names)
        now = sum(unit.cost.total for unit in around), sum(unit.cost.nodes for unit in around)
        found = self._merged(around, set(names))
        for _ in range(_SWEEPS if len(names) > 1 else 0):
            before = found
            for name in names:
                if name in found.kept or self.stopped:
                    continue
                other = self.units.arrange(self._operators(around), found.kept | {name})
                if other.total < found.total:
                    found = other
            if found is before:
                break
        if found.total >= now:
            return False
        self.kept.difference_update(*(unit.results for unit in around))
        self.kept.update(found.kept)
        self._unit_of.update((operator.index, unit) for unit in found.units for operator in unit.operators)
        return True

    def _merged(self, around: Sequence[Unit], names: Collection[str]) -> Arrangement:
        results = {name for unit in around for name in unit.results}
        return self.units.arrange(self._operators(around), results.difference(names))

    def _around(self, names: Iterable[str]) -> list[Unit]:
        """Return the units that compute or read these tensors."""
        return list(dict.fromkeys(self._unit_of[item.index] for item in self._near(names)))

    def _inputs(self, unit: Unit) -> list[str]:
        """Return the kept tensors that a unit reads and that need not be kept."""
        names = dict.fromkeys(name for item in unit.operators for name in self.units.maps[item.index])
        return [
            name for name in names
            if name in self.kept and name not in self._fixed and self.units.producers[name].index in self._unit_of
        ]  # fmt: skip

    @staticmethod
    def _operators(units: Iterable[Unit]) -> list[Operator]:
        return sorted((item for unit in units for item in unit.operators), key=lambda item: item.index)


def _instead(found: Arrangement, around: Sequence[Unit]) -> str:
    """Describe what merging costs, or return "" if merging would not combine windows."""
    operators = [operator for unit in around for operator in unit.operators]
    if sum(rule_of(operator.kind).reported_from < math.inf for operator in operators) < 2:
        return ""
    now = sum((unit.cost for unit in around), Cost())
    merged = sum((unit.after for unit in found.units), Cost())
    if merged.macs > now.macs:
        return f"merged it would take {merged.macs:,} MACs instead of {now.macs:,}"
    for what, count, instead in (("convolutions", merged.convs, now.convs), ("operators", merged.nodes, now.nodes)):
        if count > instead:
            return f"merged it would take {count} {what} instead of {instead}"
    if merged.nodes == now.nodes:
        return f"merged it would take {merged.nodes} operators, as many as now"
    if merged.total >= now.total:
        return f"merged it would read and write {merged.moved:,} numbers instead of {now.moved:,}"
    return STOPPED
