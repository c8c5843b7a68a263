"""Distinct graphs of a table; rows whose networks have the same graph are measured once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from irepdeploy.export.structure import network_digest
from irepdeploy.network.nets import NETS
from irepdeploy.profiling.counts import count
from irepdeploy.reparam.fold import folded
from irepdeploy.reparam.origin import origin_of

from .variants import BRANCHES, FUSED, KEPT, Variant

__all__ = ["Graph", "distinct_graphs"]


@dataclass
class Graph:
    """A graph and all variants that share it.

    Attributes:
        structure: Digest of the exported graph, in which BN is folded and branches are fused.
        state: "BN kept", "branches standing", or "" if neither applies.
        macs: MACs of one image.
    """

    structure: str
    state: str
    module: nn.Module
    params: int
    macs: int | None
    variants: list[Variant] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The label of the first variant."""
        return self.variants[0].label

    @property
    def mark(self) -> str:
        """The short name in a table."""
        return self.structure[:6] + {"": "", KEPT: "+BN", BRANCHES: "+branches"}[self.state]

    def facts(self, also: Sequence[Variant] = ()) -> dict[str, Any]:
        """Return the facts of a record: the network and, row by row, the figures of the paper."""
        listed = [*self.variants, *also]
        rows = [
            {
                "name": variant.label,
                "row": variant.row.label,
                "net": variant.row.net,
                "family": variant.row.family,
                "top1": variant.row.top1,
                "top5": variant.row.top5,
                "top1_source": variant.row.top1_source,
                "paper_ms": variant.row.ms if variant.published else None,
                "paper_params_m": variant.row.params_m,
                "notes": [*variant.row.notes, *filter(None, [NETS[variant.row.net].note])],
            }
            for variant in listed
        ]
        return {
            "net": self.variants[0].row.net,
            "params": self.params,
            "macs": self.macs,
            "structure": self.structure,
            "state": self.state,
            "names": [variant.label for variant in listed],
            "rows": rows,
        }


def distinct_graphs(variants: Sequence[Variant], seed: int, on_network: Callable[[str], None]) -> list[Graph]:
    """Build every variant and group those that share a graph, in the order of the table."""
    graphs: dict[tuple[str, str], Graph] = {}
    digests: dict[tuple[str, bool], str] = {}
    for variant in variants:
        net = variant.build(seed)
        # Both plain variants of a row export to the same graph, and so do both variants with branches.
        exported = (variant.row.net, variant.state in (BRANCHES, FUSED))
        if exported not in digests:
            digests[exported] = network_digest(folded(net) if variant.state in (KEPT, BRANCHES) else net)
        key = digests[exported], variant.state if variant.state in (KEPT, BRANCHES) else ""
        if key not in graphs:
            counts = count(net, origin_of(net).input_shape)
            graphs[key] = Graph(*key, net, counts.params, counts.macs)
        graphs[key].variants.append(variant)
        on_network(variant.label)
    return list(graphs.values())
