"""Suite training-cost: time and memory of a training step, plain and with branches, exact, merged and compiled.

It runs standalone; besides the package it needs only torch, numpy, onnx and onnxruntime::

    python -m irepdeploy.search.suites.training_cost --scale small --device cuda --out runs/training_cost

``--only`` takes networks, presets and steps, as in ``--only vgg16 ireps merged``. Compiling takes minutes on a CPU, so
scale small omits it there unless ``--only`` includes ``compiled``.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.board.protocol import ratio, summary
from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError, MissingError, ModelError
from irepdeploy.network.checkpoint import save
from irepdeploy.network.nets import build_plain
from irepdeploy.profiling.training_cost import peak_memory, training_step
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.runtime.compiled import require_compiler
from irepdeploy.runtime.memory import keep_freed_memory

from .alone import run_alone
from .rounds import conditions, interval, measure_rounds, place, synchronized

__all__ = ["COLUMNS", "main", "rows_of", "training_cost"]

# (branches, step)
Row = tuple[str, str]

COLUMNS = ("network", "branches", "step", "s", "x plain", "95 % interval", "images/s", "memory, MB", "x plain")

_CLASSES = 10
_NONE, _PLAIN, _COMPILED = "none", "plain", "compiled"
# Steps of a network with branches. "frozen": normalization in eval mode, where steps are merged automatically.
_VARIANTS = ("exact", "merged", "frozen")
# Besides the plain network, only this preset is compiled, with merged steps.
_COMPILED_PRESET = "ireps"


@dataclass(frozen=True)
class _Scale:
    """Sizes of the measurement, and the devices on which steps are compiled by default."""

    nets: dict[str, tuple[int, int, int]]
    presets: tuple[str, ...]
    batch: int
    rounds: int
    compiled_on: tuple[str, ...] = ()


_NETS = {"compact6": (1, 28, 28), "resnet18_cifar": (3, 32, 32), "vgg16": (3, 32, 32)}
_OF_SCALE = {
    "smoke": _Scale({"compact6": (1, 28, 28)}, ("repvgg",), 8, 2),
    "small": _Scale(_NETS, ("ireps",), 128, 8, ("cuda",)),
    "paper": _Scale(_NETS, ("repvgg", "acnet", "dbb", "ireps"), 128, 20, ("cuda", "cpu")),
}


class _Chosen:
    """The rows that a request measures; "compiled" is part of the names of steps."""

    def __init__(self, request: SuiteRequest, scale: _Scale) -> None:
        named, presets = set(request.only), (_NONE, *_OF_SCALE["paper"].presets)
        steps = (_PLAIN, *_VARIANTS, _COMPILED)
        unknown = named - {*_NETS, *presets, *steps}
        if unknown:
            known = ", ".join((*_NETS, *presets, *steps))
            raise InputError(f"no network, preset or step {min(unknown)!r}", where="--only", hint=f"any of {known}")
        self.nets = [name for name in _NETS if name in (named & {*_NETS} or scale.nets)]
        # The plain network is always measured, since the others are compared with it.
        self.presets = [name for name in presets[1:] if name in (named & {*presets} or scale.presets)]
        self._steps = named & {*steps}
        self.left_out: list[str] = []
        self.compiled = _COMPILED in self._steps or (not self._steps and request.device in scale.compiled_on)
        if self.compiled:
            try:
                require_compiler(torch.device(request.device), _COMPILED)
            except MissingError as error:
                self.compiled = False
                self.left_out.append(error.line)

    def has(self, step: str) -> bool:
        """Return whether a step of a network with branches is measured."""
        return not self._steps or step in self._steps


def training_cost(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Time and memory of a training step: plain, exact with branches, and merged."""
    request.refuse("training-cost", "models", "runners", "seconds")
    scale = _OF_SCALE[request.scale]
    chosen = _Chosen(request, scale)
    rows: list[list[str]] = []
    figures: dict[str, Any] = {}
    with conditions(request):
        try:
            if request.device == "cpu":
                # As `irepdeploy search` does.
                keep_freed_memory()
            for name in chosen.nets:
                found = rows_of(_measure(name, scale, chosen, request, display), request.seed)
                rows += [row for row, _ in found]
                figures.update({", ".join(row[:3]): values for row, values in found})
        finally:
            keep_freed_memory(False)
    return SuiteReport(
        f"Training step, batch {scale.batch}, on {place(request)}",
        list(COLUMNS),
        rows,
        [
            "forward pass, backward pass and SGD; random images, channels last, float32, freed memory kept. frozen: "
            "normalization in eval mode, where the exact step is merged by itself.",
            f"{scale.rounds} rounds, the rows of a network in turn; s: median, x: ratio of medians. Memory: of a "
            "separate process, without that of torch itself; on CUDA, the memory that torch allocates.",
            *(f"Left out: {reason}" for reason in chosen.left_out),
        ],
        figures,
    )


def rows_of(line: Mapping[str, Any], seed: int = 0) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the cells, as in `COLUMNS`, and the figures of each row of a network, from its line in a record."""
    samples, memory = line["samples_ns"], line["memory_bytes"]
    found = []
    plain = next(iter(samples))
    for name, times in samples.items():
        seconds = summary(times).median_ms / 1e3
        beside = ratio(times, samples[plain], seed, paired=True)
        used, of_plain = memory.get(name), memory[plain]
        cells = [
            line["network"],
            *name.split(" ", 1),
            f"{seconds:.3f}",
            f"{beside.value:.2f}",
            "-" if name == plain else interval(beside),
            f"{line['batch'] / seconds:.0f}",
            "-" if used is None else f"{used / 1e6:.0f}",
            f"{used / of_plain:.2f}" if used and of_plain else "-",
        ]
        found.append((cells, {"seconds": seconds, "over_plain": beside._asdict(), "memory_bytes": used}))
    return found


def _measure(
    name: str, scale: _Scale, chosen: _Chosen, request: SuiteRequest, display: ProgressDisplay
) -> dict[str, Any]:
    """Measure a network and return its line of the record."""
    nets = _networks(name, chosen, request.seed)
    device = torch.device(request.device)
    memory: dict[Row, int | None] = {}
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as folder:
        for row, net in nets.items():
            if not row[1].endswith(_COMPILED):
                path = Path(folder) / f"{name} {' '.join(row)}.pt"
                save(net, path)
                step = row[1] if row[1] in _VARIANTS else "exact"
                memory[row] = peak_memory(path, scale.batch, device=request.device, step=step).peak_bytes
    calls: dict[str, Callable[[], None]] = {}
    for row, net in nets.items():
        compiled, frozen = row[1].endswith(_COMPILED), row[1] == "frozen"
        try:
            call = training_step(net, scale.batch, request.device, name, frozen=frozen, compiled=compiled)
            if compiled:
                # Trigger compilation before measuring.
                call()
        except ModelError as error:
            if not compiled:
                raise
            chosen.left_out.append(f"{name}, {', '.join(row)}: {error.line}")
            continue
        calls[" ".join(row)] = synchronized(call, device)
    samples = measure_rounds(calls, scale.rounds, display.task(name, scale.rounds), seed=request.seed)
    line = {
        "suite": "training-cost",
        "network": name,
        "device": place(request),
        "batch": scale.batch,
        "shape": list(_NETS[name]),
        "samples_ns": samples,
        "memory_bytes": {" ".join(row): used for row, used in memory.items()},
    }
    request.record(line)
    return line


def _networks(name: str, chosen: _Chosen, seed: int) -> dict[Row, nn.Module]:
    """Return the networks by branches and step, the plain one first."""
    torch.manual_seed(seed)
    base = build_plain(name, num_classes=_CLASSES, input_shape=_NETS[name])
    nets: dict[Row, nn.Module] = {(_NONE, _PLAIN): base}
    if chosen.compiled:
        nets[_NONE, f"{_PLAIN}, {_COMPILED}"] = copy.deepcopy(base)
    for preset in chosen.presets:
        for variant in filter(chosen.has, _VARIANTS):
            nets[preset, variant] = insert_branches(base, preset, step="merged" if variant == "merged" else "exact")
        if chosen.compiled and preset == _COMPILED_PRESET:
            nets[preset, f"merged, {_COMPILED}"] = insert_branches(base, preset, step="merged")
    return nets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite standalone and return an exit code."""
    return run_alone(training_cost, "training_cost", arguments, rows="networks, presets and steps")


if __name__ == "__main__":
    sys.exit(main())
