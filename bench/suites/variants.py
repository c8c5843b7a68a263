"""What is measured of a row of the paper: the network with its batch normalisation kept, folded, or branches fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from irepdeploy.network.nets import build, build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.fold import folded

from .published import REP, PaperRow

__all__ = ["BRANCHES", "FOLDED", "FUSED", "KEPT", "Variant", "variants"]

KEPT = "BN kept"
FOLDED = "BN folded"
BRANCHES = "branches standing"
FUSED = "fused"


@dataclass(frozen=True)
class Variant:
    """One form of one row's network.

    Args:
        state: "BN kept", "BN folded", "branches standing" or "fused".
        published: whether the paper's latency is this form's. It does not say which; its numbers fit BN kept (VGG 2.14
            ms against 1.76 ms with the same convolutions), so that is what they stand beside.
    """

    row: PaperRow
    state: str
    published: bool = False

    @property
    def label(self) -> str:
        """Unique in a table."""
        return f"{self.row.label}, {self.state}"

    def build(self, seed: int) -> nn.Module:
        """The network in eval mode, seeded random weights and statistics; the same weights in all forms of a row."""
        with_branches = self.state in (BRANCHES, FUSED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = build(self.row.net) if with_branches else build_plain(self.row.net)
        randomize_statistics(net, seed).eval()
        # `fuse` alone would leave the batch normalisation behind 1x1 convolutions.
        return folded(net) if self.state in (FOLDED, FUSED) else net


def variants(rows: Sequence[PaperRow]) -> list[Variant]:
    """Every form of every row, in their order."""
    found = []
    for row in rows:
        if row.family == REP:
            found.append(Variant(row, FUSED, True))
        else:
            found += [Variant(row, KEPT, True), Variant(row, FOLDED)]
    return found
