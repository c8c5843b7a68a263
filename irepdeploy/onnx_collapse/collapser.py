"""The passes over a model: fold, find regions, plan, build, prove and rewrite until nothing changes."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import onnx

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_collapse.builder import Border
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.folding import fold
from irepdeploy.onnx_collapse.graph import Graph
from irepdeploy.onnx_collapse.region import find_regions
from irepdeploy.onnx_collapse.region_collapser import RegionCollapser
from irepdeploy.onnx_collapse.report import Collapse, Region
from irepdeploy.onnx_collapse.rewrite import names_of, rewrite
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
    known: dict[tuple[str, ...], list[Region]] = {}
    said: set[str] = set()
    for _ in range(_PASSES):
        try:
            regions = _once(proto, border, known, said)
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


def _once(
    proto: onnx.ModelProto, border: Border, known: dict[tuple[str, ...], list[Region]], said: set[str]
) -> list[Region]:
    """Run one pass over the model, in place.

    `known` are the rows of regions that were left as they are, by the tensors that they compute; `said` are the tensors
    and operators whose reason stands in the row of a region that is no longer there.
    """
    graph = Graph.of(proto)
    fold(graph)
    context = Context(graph)
    names = names_of(proto)
    found, replacements = [], []
    for region in find_regions(context):
        key = tuple(name for operator in region.operators for name in operator.outputs)
        if key not in known:
            collapser = RegionCollapser(region, context, names, border, said)
            rows = collapser.rows()
            replacements += collapser.replacements
            if not collapser.replacements:
                known[key] = rows
            found += rows
        else:
            found += known[key]
    if replacements:
        rewrite(graph, replacements)
    return found
