"""The distinct graphs behind the rows of a table: rows whose networks are one graph are measured once."""

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
    """One graph, and every form of every row that it is.

    Args:
        structure: digest of what an exporter makes of it, in which BN is folded and branches are fused.
        state: "BN kept", "branches standing", or "" where neither is left.
        module: with the weights of the first form in the table.
        macs: of one image.
    """

    structure: str
    state: str
    module: nn.Module
    params: int
    macs: int | None
    variants: list[Variant] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Of the first form that it is."""
        return self.variants[0].label

    @property
    def mark(self) -> str:
        """Short name in a table."""
        return self.structure[:6] + {"": "", KEPT: "+BN", BRANCHES: "+branches"}[self.state]

    def facts(self, also: Sequence[Variant] = ()) -> dict[str, Any]:
        """What a record says of it: the network and, row by row, what the paper prints.

        Args:
            also: forms of other graphs that are this one to the runner of the record.
        """
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
    """Build every form and group those that are one graph, in the order of the table.

    Args:
        on_network: told the label of each form once it is built.
    """
    graphs: dict[tuple[str, str], Graph] = {}
    digests: dict[tuple[str, bool], str] = {}
    for variant in variants:
        net = variant.build(seed)
        # Both plain forms of a row are exported alike, and so are both of its forms with branches.
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
