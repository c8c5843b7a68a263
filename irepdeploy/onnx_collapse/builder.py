"""Build one unit of a plan: compose its kernels, and refuse results that are not exact at the border."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.emit import Emitted, Names, emit
from irepdeploy.onnx_collapse.form import Form
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.refusal import NO_LOSS, Refusal
from irepdeploy.onnx_collapse.stencil import trim
from irepdeploy.onnx_collapse.unit import Unit

__all__ = ["Border", "Built", "build"]

Border = Literal["refuse", "map"]


@dataclass(frozen=True)
class Built:
    """The new operators of a unit, and the forms of its results."""

    emitted: Emitted
    forms: Mapping[str, Form]


def build(unit: Unit, context: Context, names: Names, border: Border) -> Built:
    """Compose the kernels of a unit in float64, or raise Refusal with the tensors that must be kept."""
    builder = _Builder(unit, context)
    forms = builder.forms()
    emitted = Emitted()
    for name in unit.results:
        form = forms[name]
        if not form.uniform and (border == "refuse" or form.dynamic):
            raise builder.border_refusal(name)
        form = replace(form, terms={source: trim(term) for source, term in form.terms.items()})
        forms[name] = form
        emit(form, name, context.graph.producers[name].name, names, emitted)
    if not unit.before.accepts(emitted.cost):
        reason = NO_LOSS if unit.before.convs < 2 else "written out with its bias, it would be no cheaper"
        raise Refusal(reason, builder.inner)
    return Built(emitted, forms)


class _Builder:
    def __init__(self, unit: Unit, context: Context) -> None:
        self.unit, self.context = unit, context
        self.producers = {name: operator for operator in unit.operators for name in operator.outputs if name}
        self.uniform: dict[str, bool] = {}

    @property
    def inner(self) -> list[str]:
        """The tensors that the unit removes."""
        return [name for name in self.producers if name not in self.unit.results]

    def forms(self) -> dict[str, Form]:
        """Return the forms of the results; other forms are released after their last use."""
        pending = Counter(name for operator in self.unit.operators for name in self._maps(operator))
        pending.update(self.unit.results)
        forms: dict[str, Form] = {}
        for operator in self.unit.operators:
            names = self._maps(operator)
            own = {name: forms[name] if self._inside(name) else self.context.form(name) for name in names}
            try:
                found = rule_of(operator.kind).apply(operator, own, self.context)
            except Refusal as refusal:
                raise Refusal(refusal.reason, [name for name in names if self._inside(name)] or self.inner) from None
            forms.update(found)
            self.uniform.update((name, form.uniform) for name, form in found.items())
            for name in names:
                pending[name] -= 1
                if not pending[name]:
                    forms.pop(name, None)
        return {name: forms[name] for name in self.unit.results}

    def _maps(self, operator: Operator) -> list[str]:
        return rule_of(operator.kind).maps(operator, self.context)

    def _inside(self, name: str) -> bool:
        return name in self.producers and name not in self.unit.results

    def border_refusal(self, name: str) -> Refusal:
        """Return the refusal of the first operator after which the bias varies with the position."""
        operator = self.producers[name]
        while True:
            inner = [item for item in self._maps(operator) if self._inside(item)]
            uneven = [item for item in inner if not self.uniform[item]]
            if not uneven:
                break
            operator = self.producers[uneven[0]]
        own = [item for item in operator.outputs if self._inside(item)]
        return Refusal(
            f"{operator.kind} {operator.name!r} {rule_of(operator.kind).border_reason}", inner or own or self.inner
        )
