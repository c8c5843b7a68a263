"""Settings of a measurement."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.runtime.given_inputs import Given
from irepdeploy.verify.onnx_process import TIMEOUT_S, check_limit

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OFFLINE", "OFFLINE_BATCHES", "SINGLE_STREAM", "BenchRequest"]

# Scenarios as in MLPerf: one query after another, as from a camera, or all images at once in batches.
SINGLE_STREAM, OFFLINE = "single-stream", "offline"
OFFLINE_BATCHES = (1, 2, 4, 8, 16, 32, 64)

_MAX_SAMPLES = 10_000
_WARMUP_S = (0.5, 5.0)


@dataclass(frozen=True)
class BenchRequest:
    """Settings with which all models of a run are measured.

    Attributes:
        scenario: SINGLE_STREAM, or OFFLINE with one record per batch size.
        batches: Batch sizes. Default: 1, or the model's own if it is fixed; for OFFLINE, `OFFLINE_BATCHES`.
        shapes: Sizes of inputs with dynamic dimensions.
        inputs: Inputs that replace random ones: the first of a file or folder, or of arrays.
        device: Device of the torch runners; other runners have a fixed device.
        transfers: "excluded" or "included": whether a call copies inputs to the GPU and outputs back.
        timeout_s: Seconds that an ONNX file may take to load and run once before the measurement.
        factory: Function that builds the network of checkpoints that are not in the registry.
        out: Folder to whose ``records.jsonl`` records are appended. None writes nothing.
    """

    scenario: str = SINGLE_STREAM
    batches: Sequence[int] = ()
    shapes: Sequence[TensorSpec] = ()
    inputs: Given | None = None
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    tf32: bool = False
    transfers: str = "excluded"
    min_seconds: float = 5.0
    min_samples: int = 64
    timeout_s: float = TIMEOUT_S
    factory: Callable[[], nn.Module] | None = None
    suite: str = "models"
    out: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_limit(self.timeout_s)
        if not math.isfinite(self.min_seconds) or self.min_seconds < 0:
            raise InputError(f"expected a finite number of seconds from 0, got {self.min_seconds}", where="--seconds")
        if self.scenario not in (SINGLE_STREAM, OFFLINE):
            raise InputError(f"no scenario {self.scenario!r}", where="--scenario", hint=f"{SINGLE_STREAM} or {OFFLINE}")
        batches = self.batches
        if any(isinstance(batch, bool) or batch < 1 for batch in batches) or len(set(batches)) != len(batches):
            hint = "whole numbers from 1 up, each once"
            raise InputError(f"batches {list(batches)}", where="--batches", hint=hint)

    @property
    def batch_sizes(self) -> list[int | None]:
        """The batch sizes to measure; None stands for 1, or the model's own."""
        return list(self.batches or (OFFLINE_BATCHES if self.scenario == OFFLINE else (None,)))

    @property
    def written_batch(self) -> int | None:
        """The batch size of ONNX models written for this run, or None for a dynamic one."""
        sizes = self.batch_sizes
        return (sizes[0] or 1) if len(sizes) == 1 and not self.shapes else None

    @property
    def limits(self) -> dict[str, Any]:
        """Limits of measurement and warm-up, as arguments of `irepdeploy.board.protocol.measure`."""
        return {
            "min_samples": self.min_samples,
            "min_seconds": self.min_seconds,
            "max_samples": _MAX_SAMPLES,
            # A warm-up need not be longer than the measurement.
            "warmup_min_seconds": min(_WARMUP_S[0], self.min_seconds),
            "warmup_max_seconds": min(_WARMUP_S[1], self.min_seconds),
        }

    @property
    def conditions(self) -> dict[str, Any]:
        """Return the settings of the measurement as stored in its records."""
        return {
            "seed": self.seed,
            "order": "shuffled in every round",
            "tf32": "on" if self.tf32 else "off",
            "transfers": self.transfers,
            **self.limits,
        }
