"""Suite training-cost: time and memory of a training step, plain and with branches, exact and merged.

It runs by itself, with nothing but torch, numpy, onnx and onnxruntime beside the package::

    python -m irepdeploy.search.suites.training_cost --scale small --device cuda --out runs/training_cost
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.board.protocol import ratio, summary
from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.network.checkpoint import save
from irepdeploy.network.nets import build_plain
from irepdeploy.profiling.training_cost import peak_memory, training_step
from irepdeploy.reparam.block import STEPS, Step
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.normalisation import NORMS
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.runtime.memory import keep_freed_memory

from .alone import run_alone
from .rounds import conditions, interval, measure_rounds, place, synchronized

__all__ = ["main", "training_cost"]

# Branches and step.
Row = tuple[str, str]

_CLASSES = 10
_PLAIN = "plain"
# Of the network without branches, then with those of a preset; "frozen": statistics in eval mode, merged by itself.
_VARIANTS = ("exact", "merged", "frozen")
_COMPILED = "compiled"


@dataclass(frozen=True)
class _Scale:
    """Sizes of the measurement: networks by name with their images, presets, batch and rounds."""

    nets: dict[str, tuple[int, int, int]]
    presets: tuple[str, ...]
    batch: int
    rounds: int
    compiled: bool = False


_NETS = {"compact6": (1, 28, 28), "resnet18_cifar": (3, 32, 32), "vgg16": (3, 32, 32)}
_OF_SCALE = {
    "smoke": _Scale({"compact6": (1, 28, 28)}, ("repvgg",), 8, 2),
    "small": _Scale(_NETS, ("ireps",), 128, 8),
    "paper": _Scale(_NETS, ("repvgg", "acnet", "dbb", "ireps"), 128, 20, compiled=True),
}


def training_cost(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Training step plain, with every branch computed, and merged: time and memory."""
    request.refuse("training-cost", "models", "runners", "seconds")
    scale = _OF_SCALE[request.scale]
    unknown = set(request.only) - set(scale.nets)
    if unknown:
        raise InputError(f"no network {min(unknown)!r}", where="--only", hint=f"one of {', '.join(scale.nets)}")
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    with conditions(request):
        try:
            if request.device == "cpu":
                # As `irepdeploy search` does.
                keep_freed_memory()
            for name, shape in scale.nets.items():
                if not request.only or name in request.only:
                    found = _measure(name, shape, scale, request, display)
                    for row, (cells, values) in found.items():
                        rows.append([name, *row, *cells])
                        figures[", ".join((name, *row))] = values
        finally:
            keep_freed_memory(False)
    return SuiteReport(
        f"Training step, batch {scale.batch}, on {place(request)}",
        ["network", "branches", "step", "s", "x plain", "95 % interval", "images/s", "memory, MB", "x plain"],
        rows,
        [
            "forward pass, backward pass and SGD; random images, channels last, float32, freed memory kept. frozen: "
            "normalisation in eval mode, where the exact step is merged by itself.",
            f"{scale.rounds} rounds, the rows of a network in turn; s: median, x: ratio of medians. Memory: of a "
            "process of its own, above what torch takes; on CUDA what torch allocates.",
        ],
        figures,
    )


def _measure(
    name: str, shape: tuple[int, int, int], scale: _Scale, request: SuiteRequest, display: ProgressDisplay
) -> dict[Row, tuple[list[str], dict[str, Any]]]:
    """Return the cells and figures of each row of a network."""
    nets = _networks(name, shape, scale, request.seed)
    device = torch.device(request.device)
    memory: dict[Row, int | None] = {}
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as folder:
        for row, net in nets.items():
            if row[1] in (_PLAIN, *STEPS):
                path = Path(folder) / f"{name} {' '.join(row)}.pt"
                save(net, path)
                step: Step = "merged" if row[1] == "merged" else "exact"
                memory[row] = peak_memory(path, scale.batch, device=request.device, step=step).peak_bytes
    calls: dict[str, Callable[[], None]] = {}
    for row, net in nets.items():
        call = training_step(net, scale.batch, request.device, name)
        if row[1] == "frozen":
            for module in net.modules():
                if isinstance(module, NORMS):
                    module.eval()
        calls[" ".join(row)] = synchronized(call, device)
    samples = measure_rounds(calls, scale.rounds, display.task(name, scale.rounds), seed=request.seed)
    request.record(
        {
            "suite": "training-cost",
            "network": name,
            "device": place(request),
            "batch": scale.batch,
            "shape": list(shape),
            "samples_ns": samples,
            "memory_bytes": {" ".join(row): used for row, used in memory.items()},
        }
    )
    rows = {}
    plain = next(iter(nets))
    for row in nets:
        seconds = summary(samples[" ".join(row)]).median_ms / 1e3
        beside = ratio(samples[" ".join(row)], samples[" ".join(plain)], request.seed, paired=True)
        used, of_plain = memory.get(row), memory[plain]
        cells = [
            f"{seconds:.3f}",
            f"{beside.value:.2f}",
            "-" if row == plain else interval(beside),
            f"{scale.batch / seconds:.0f}",
            "-" if used is None else f"{used / 1e6:.0f}",
            f"{used / of_plain:.2f}" if used and of_plain else "-",
        ]
        rows[row] = cells, {"seconds": seconds, "over_plain": beside._asdict(), "memory_bytes": used}
    return rows


def _networks(name: str, shape: tuple[int, int, int], scale: _Scale, seed: int) -> dict[Row, nn.Module]:
    """Return the networks by branches and step, the plain one first."""
    torch.manual_seed(seed)
    base = build_plain(name, num_classes=_CLASSES, input_shape=shape)
    nets: dict[Row, nn.Module] = {("none", _PLAIN): base}
    for preset in scale.presets:
        for variant in _VARIANTS:
            nets[preset, variant] = insert_branches(base, preset, step="merged" if variant == "merged" else "exact")
        if scale.compiled:
            compiled = insert_branches(base, preset, step="merged")
            compiled.compile()
            nets[preset, _COMPILED] = compiled
    return nets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite by itself and return an exit code."""
    return run_alone(training_cost, "training_cost", arguments, nets=True)


if __name__ == "__main__":
    sys.exit(main())
