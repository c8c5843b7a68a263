"""The passes over a model: fold, find regions, plan, build, prove and rewrite until nothing changes."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import onnx

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_collapse.builder import Border
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.folding import fold
from irepdeploy.onnx_collapse.fully_connected import merge_fully_connected
from irepdeploy.onnx_collapse.graph import Graph
from irepdeploy.onnx_collapse.known_branches import take_known_branches
from irepdeploy.onnx_collapse.region import find_regions
from irepdeploy.onnx_collapse.region_collapser import RegionCollapser
from irepdeploy.onnx_collapse.report import Collapse, Region
from irepdeploy.onnx_collapse.rewrite import Replacement, names_of, rewrite
from irepdeploy.onnx_graph.check import check_model
from irepdeploy.onnx_graph.model_file import OnnxModel, label_of, open_model
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

__all__ = ["collapse"]

_PASSES, _MOST_NODES = 10, 100_000


@exact_arithmetic()
def collapse(model: OnnxModel, *, border: Border = "refuse") -> Collapse:
    """Replace linear, shift-invariant regions of an ONNX graph by equivalent single convolutions.

    Batch normalizations before or after a fully connected layer are folded into its weights. Kernels are composed in
    float64 and rounded once. Each region is proved in float64 on a random and a zero input: to 1e-10 in the interior,
    and also at the border unless the file stores border constants, which are rounded.

    Args:
        model: A model in memory, its bytes, or a path; it is not changed.
        border: How to treat a merged region that differs from a convolution at its border, for example because of a
            bias before zero padding. "refuse" keeps the region and reports the reason; "map" writes the convolution and
            a constant map (1, C, H, W).

    Returns:
        The collapsed model and a report of every region. If nothing collapses and no operator is constant, it holds the
        model as given.

    Raises:
        InputError: The file is missing, or `border` is unknown.
        ModelError: The file is not an ONNX model, is damaged, lacks its external data, is older than opset 7, or has
            too many nodes.
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
    passes = _Passes(proto, border)
    try:
        passes.run()
    except ModelError as error:
        raise type(error)(error.what, where=where, hint=error.hint) from error
    if not passes.changed:
        same = model if isinstance(model, onnx.ModelProto) else proto
        return Collapse(same, passes.left, False, model, given, given)
    after = Counter(node.op_type for node in proto.graph.node)
    return Collapse(proto, passes.done + passes.left, True, model, given, after, passes.folded)


class _Passes:
    """The passes over a model, which is changed in place.

    Attributes:
        done: Reports of the regions that collapsed.
        left: Reports of the regions that the last pass left unchanged.
        folded: Number of constant operators that were evaluated.
        changed: Whether the model was changed.
    """

    def __init__(self, proto: onnx.ModelProto, border: Border) -> None:
        self.proto, self.border = proto, border
        self.done: list[Region] = []
        self.left: list[Region] = []
        self.folded, self.changed = 0, False
        # Reports of unchanged regions, by the tensors that they compute: another pass would give the same result.
        self._known: dict[tuple[str, ...], list[Region]] = {}
        # The tensors and operators whose reason was reported for a region that no longer exists.
        self._said: set[str] = set()

    def run(self) -> None:
        """Fold and collapse until nothing changes."""
        for _ in range(_PASSES):
            graph, folded = self._graph()
            self.folded += folded
            replacements, rows = self._collapsed(Context(graph))
            self.left = [row for row in rows if not row.collapsed]
            self.done += [row for row in rows if row.collapsed]
            if replacements or folded:
                rewrite(graph, replacements)
                self.changed = True
            if not replacements:
                break

    def _graph(self) -> tuple[Graph, int]:
        """Return the folded graph without branches that are never taken, and how many operators were evaluated."""
        count = 0
        while True:
            graph = Graph.of(self.proto)
            count += fold(graph)
            taken = take_known_branches(graph)
            if not taken:
                return graph, count
            count += taken

    def _collapsed(self, context: Context) -> tuple[list[Replacement], list[Region]]:
        names = names_of(self.proto)
        found: list[Region] = []
        replacements: list[Replacement] = []
        for region in find_regions(context):
            key = tuple(name for operator in region.operators for name in operator.outputs)
            if key not in self._known:
                collapser = RegionCollapser(region, context, names, self.border, self._said)
                rows = collapser.rows()
                replacements += collapser.replacements
                found += rows
                if not collapser.replacements:
                    self._known[key] = rows
            else:
                found += self._known[key]
        merged, rows = merge_fully_connected(context, names)
        return replacements + merged, found + rows
