"""Suite table3: latency on ImageNet's 3x224x224 (Table 3)."""

from __future__ import annotations

from functools import partial

from .latency_table import LatencyTable, latency_table
from .published import TABLE3
from .variants import variants

__all__ = ["table3"]

table3 = partial(
    latency_table,
    LatencyTable(
        name="table3",
        title="Table 3, ImageNet networks",
        variants=variants(TABLE3),
        reference="IrepResNet-18, fused",
        smoke=("ResNet-18, BN kept", "IrepResNet-18, fused", "DARTS (second), BN folded"),
        notes=(
            "Paper: an A100, batch 1, fp32; it does not say which runner, nor whether TF32 was on. Its parameters of"
            " DyRep, DBB and Irep rows are those of training; here they are those of inference.",
        ),
    ),
)
