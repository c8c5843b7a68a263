"""Suite table2: latency on CIFAR-10's 3x32x32 (Table 2)."""

from __future__ import annotations

from functools import partial

from .latency_table import LatencyTable, latency_table
from .published import TABLE2
from .variants import variants

__all__ = ["table2"]

table2 = partial(
    latency_table,
    LatencyTable(
        name="table2",
        title="Table 2, CIFAR-10 networks",
        variants=variants(TABLE2),
        reference="IrepVGG-16, fused",
        smoke=(
            "VGG, BN kept",
            "RepVGG, fused",
            "IrepVGG-16, fused",
            "DARTS (second), BN kept",
            "DARTS (second), BN folded",
        ),
        notes=(
            "Paper: an A100, batch 1, fp32; it does not say which runner, nor whether TF32 was on. Its latencies are"
            " listed with BN kept, which fits them (VGG 2.14 ms, the same convolutions folded 1.76 ms).",
        ),
    ),
)
