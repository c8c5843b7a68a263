"""Benchmark time and peak memory of a proved fuse against loading the same checkpoint.

Run ``python -m irepdeploy.bench.tools.fuse_time [FILE.jsonl]``: ResNet-50 with all nine branches, random weights and
statistics, is loaded (including construction, the file in the page cache) and fused, interleaved.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from irepdeploy.board.protocol import PROTOCOL_VERSION, ratio, summary
from irepdeploy.console import table
from irepdeploy.network.checkpoint import load, save
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.fuse import fuse
from irepdeploy.runtime.memory import peak_bytes, reset_peak

from .harness import interval_text, keep_line, samples_of

__all__ = ["measure_fuse", "peak_of_fuse"]

_ROUNDS = 20


def measure_fuse(checkpoint: Path, rounds: int = _ROUNDS) -> dict[str, list[int]]:
    """Return the times in ns of loading a checkpoint and of fusing it with and without proof, interleaved."""
    net = load(checkpoint)
    calls = {
        "load": lambda: load(checkpoint),
        "fuse, proved": lambda: fuse(net),
        "fuse, not proved": lambda: fuse(net, prove=False),
    }
    return samples_of(calls, rounds)


def peak_of_fuse(net: nn.Module) -> float | None:
    """Return the increase of resident memory at the peak of a proved fuse, relative to the size of the weights."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    # Load everything that torch needs for any fuse.
    fuse(build("vgg6", branches="ireps").eval())
    # Return freed memory to the system, or a fuse could reuse it and appear to need none.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak()
    plain = fuse(net)
    found = None if before is None else (peak_bytes() - before) / weights
    del plain
    return found


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save(randomize_statistics(build("resnet50", branches="ireps").eval()), Path(folder, "net.pt"))
        # Measure this first, while the process is still small.
        peak = peak_of_fuse(load(checkpoint))
        samples = measure_fuse(checkpoint)
    rows = []
    for name, times in samples.items():
        found = ratio(times, samples["load"], seed=0)
        rows.append([name, f"{summary(times).median_ms:.0f}", f"{found.value:.2f}", interval_text(found)])
    table("ResNet-50 with all branches", ["call", "median ms", "x load", "95 % interval"], rows)
    text = "unknown on this system" if peak is None else f"{peak:.2f} times the weights"
    print(f"increase of memory at the peak of a proved fuse: {text}")
    keep_line(record, "fuse time", protocol_version=PROTOCOL_VERSION, peak_over_weights=peak, samples_ns=samples)


if __name__ == "__main__":
    main(*sys.argv[1:2])
