"""The passes over a model: fold, find regions, plan, build, prove and rewrite until nothing changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import onnx

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_collapse.builder import Border, build
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.cost import operator_cost
from irepdeploy.onnx_collapse.emit import Names
from irepdeploy.onnx_collapse.folding import fold
from irepdeploy.onnx_collapse.graph import FLOATS, Graph
from irepdeploy.onnx_collapse.plan import Plan, Planner, PlanTooLong, Unit
from irepdeploy.onnx_collapse.proof import Proof, prove
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.region import LinearRegion, find_regions
from irepdeploy.onnx_collapse.report import Collapse, Region
from irepdeploy.onnx_collapse.rewrite import Replacement, names_of, rewrite, rounded
from irepdeploy.onnx_graph.check import check_model
from irepdeploy.onnx_graph.model_file import OnnxModel, label_of, open_model
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

__all__ = ["collapse"]

_PASSES, _MOST_NODES = 10, 100_000


@exact_arithmetic()
def collapse(model: OnnxModel, *, border: Border = "refuse") -> Collapse:
    """Replace linear, shift-invariant regions of an ONNX graph by single convolutions, exactly.

    Kernels are composed in float64 and rounded once. Each region is proved in float64 by a random and a zero input: to
    1e-10 inside the map, and at its border unless the file stores border constants, which are rounded.

    Args:
        model: a model in memory (it is not changed), its bytes, or a path.
        border: how to treat a merged region that is not a convolution at its border, as with a bias before zero
            padding: "refuse" keeps it and gives the reason; "map" writes the convolution and a constant map
            (1, C, H, W).

    Returns:
        The collapsed model and a report of every region; the model as given if nothing collapses.

    Raises:
        InputError: the file is missing, or `border` is unknown.
        ModelError: it is not an ONNX model, is damaged, lacks its external data, or is older than opset 7.
    """
    if border not in get_args(Border):
        raise InputError(f"expected border to be one of {', '.join(get_args(Border))}, got {border!r}")
    proto, where = open_model(model), label_of(model)
    check_model(proto, where)
    if len(proto.graph.node) > _MOST_NODES:
        what = f"expected at most {_MOST_NODES:,} nodes to collapse, got {len(proto.graph.node):,}"
        raise ModelError(what, where=where, hint="export it with --no-collapse")
    if proto is model:
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    given = Counter(node.op_type for node in proto.graph.node)
    done: list[Region] = []
    left: list[Region] = []
    for _ in range(_PASSES):
        try:
            regions = _once(proto, border)
        except ModelError as error:
            raise type(error)(error.what, where=where, hint=error.hint) from error
        left = [region for region in regions if not region.collapsed]
        done += [region for region in regions if region.collapsed]
        if len(left) == len(regions):
            break
    if not done:
        same = model if isinstance(model, onnx.ModelProto) else proto
        return Collapse(same, left, False, model, given, given)
    after = Counter(node.op_type for node in proto.graph.node)
    return Collapse(proto, done + left, True, model, given, after)


def _once(proto: onnx.ModelProto, border: Border) -> list[Region]:
    """Run one pass over the model, in place."""
    graph = Graph.of(proto)
    fold(graph)
    context = Context(graph)
    names = names_of(proto)
    found, replacements = [], []
    for region in find_regions(context):
        worker = _Worker(region, context, names, border)
        row = worker.run()
        if row is not None:
            found.append(row)
        replacements += worker.replacements
    if replacements:
        rewrite(graph, replacements)
    return found


class _Worker:
    """Collapse one region."""

    def __init__(self, region: LinearRegion, context: Context, names: Names, border: Border) -> None:
        self.region, self.context, self.names, self.border = region, context, names, border
        self.numeric = replace(context, numeric=True)
        self.planner = Planner(region, context)
        self.replacements: list[Replacement] = []
        self.proofs: list[Proof] = []

    def run(self) -> Region | None:
        """Plan, build and prove; keep what cannot be built exactly and plan the rest again."""
        cuts: dict[str, str] = {}
        ready: dict[tuple[str, ...], tuple[Unit, Replacement, Proof]] = {}
        while True:
            try:
                plan = self.planner.best(cuts)
            except PlanTooLong as error:
                return self._left_alone(str(error))
            chosen = [unit for unit in plan.units if unit.replace]
            ready = {unit.results: ready[unit.results] for unit in chosen if _is_ready(unit, ready)}
            try:
                for unit in chosen:
                    if unit.results not in ready:
                        ready[unit.results] = (unit, *self._build(unit))
            except Refusal as refusal:
                more = {name: refusal.reason for name in refusal.tensors or () if name not in cuts}
                inner = (name for operator in unit.operators for name in operator.outputs if name)
                cuts |= more or {name: refusal.reason for name in inner if name not in unit.results}
                continue
            break
        self.replacements = [item[1] for item in ready.values()]
        self.proofs = [item[2] for item in ready.values()]
        return self._row(plan, cuts)

    def _left_alone(self, reason: str) -> Region:
        operators = self.region.operators
        kinds = dict(sorted(Counter(operator.kind for operator in operators).items()))
        macs = sum(operator_cost(operator, self.context).macs for operator in operators)
        return Region(operators[-1].name, kinds, kinds, macs, macs, reason)

    def _build(self, unit: Unit) -> tuple[Replacement, Proof]:
        built = build(unit, self.numeric, self.names, self.border)
        proof = prove(unit, built, self.numeric)
        kind = FLOATS[self.context.graph.shapes.types[unit.results[0]]]
        return Replacement(unit.operators, built.emitted, rounded(built.emitted.arrays, kind)), proof

    def _row(self, plan: Plan, cuts: Mapping[str, str]) -> Region | None:
        """Return the region's row in the report; None if there was nothing to merge."""
        gone = {operator.index for item in self.replacements for operator in item.operators}
        operators = self.region.operators
        before = Counter(operator.kind for operator in operators)
        after = Counter(operator.kind for operator in operators if operator.index not in gone)
        for item in self.replacements:
            after.update(node.op_type for node in item.emitted.every_node)
        macs = sum(unit.before.macs for unit in plan.units)
        macs_after = sum(unit.before.macs for unit in plan.units if not unit.replace)
        macs_after += sum(item.emitted.cost.macs for item in self.replacements)
        reasons = self._reasons(plan, cuts)
        if not gone and not reasons:
            return None
        interior = [proof.interior for proof in self.proofs if proof.interior is not None]
        outer = [proof.border for proof in self.proofs if proof.border is not None]
        given = self.region.given
        sources = dict.fromkeys(
            name for operator in operators for name in operator.inputs
            if name and name not in given and not self.context.graph.is_constant(name)
        )  # fmt: skip
        results = [name for operator in operators for name in operator.outputs if name in self.region.needed]
        return Region(
            name=operators[-1].name,
            operators_in=dict(sorted(before.items())),
            operators_out=dict(sorted(after.items())),
            macs_before=macs,
            macs_after=macs_after,
            reason="; ".join(reasons),
            error_interior=max(interior, default=None),
            error_border=max(outer, default=None),
            sources=tuple(sources),
            results=tuple(results),
        )

    def _reasons(self, plan: Plan, cuts: Mapping[str, str]) -> list[str]:
        """Explain why inner tensors were kept; for those that the cost model kept, say what merging would cost."""
        places = {name: f"behind {item.name!r}" for item in self.region.operators for name in item.outputs}
        known = {**plan.reasons, **cuts}
        found = dict.fromkeys(
            f"{places.get(name, name)}: {known[name]}" for name in sorted(plan.cuts) if known.get(name)
        )
        # The cost model keeps a tensor by choosing another plan, or by not accepting a unit.
        plans = [plan] if plan.cuts <= known.keys() else [plan, self.planner.merged(cuts)]
        refused = [unit for unit in plans[-1].units if not unit.replace and unit.after.nodes < unit.before.nodes]
        if refused:
            merged, least = (sum(unit.after.macs for unit in refused), sum(unit.before.macs for unit in refused))
            found[f"merged it would take {merged:,} MACs instead of {least:,}"] = None
        return [*found, *self.region.neighbours]


def _is_ready(unit: Unit, ready: Mapping[tuple[str, ...], tuple[Unit, Replacement, Proof]]) -> bool:
    return unit.results in ready and ready[unit.results][0].operators == unit.operators
