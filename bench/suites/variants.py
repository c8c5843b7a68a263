"""Variants of a row of the paper: batch normalization kept or folded, branches standing or fused."""

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
    """A variant of a row's network.

    Attributes:
        published: Whether the paper's latency belongs to this variant. The paper does not say; its numbers fit BN kept
            (VGG 2.14 ms against 1.76 ms with the same convolutions).
    """

    row: PaperRow
    state: str
    published: bool = False

    @property
    def label(self) -> str:
        """The label, unique in a table."""
        return f"{self.row.label}, {self.state}"

    def build(self, seed: int) -> nn.Module:
        """Build the network in eval mode with seeded weights and statistics, the same in all variants of a row."""
        with_branches = self.state in (BRANCHES, FUSED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = build(self.row.net) if with_branches else build_plain(self.row.net)
        randomize_statistics(net, seed).eval()
        # `fuse` alone would leave the batch normalization after 1x1 convolutions.
        return folded(net) if self.state in (FOLDED, FUSED) else net


def variants(rows: Sequence[PaperRow]) -> list[Variant]:
    """Return every variant of every row, in their order."""
    found = []
    for row in rows:
        if row.family == REP:
            found.append(Variant(row, FUSED, True))
        else:
            found += [Variant(row, KEPT, True), Variant(row, FOLDED)]
    return found
