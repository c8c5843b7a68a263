"""Suite table1: time to score a population, naively and with fused networks (Section 3.4, Table 1).

It runs standalone; besides the package it needs only torch, numpy, onnx and onnxruntime::

    python -m irepdeploy.search.suites.table1 --scale paper --device cuda --out runs/table1

If the package cannot be installed, run it from a checkout after linking the stages into the core::

    mkdir -p build/alone/irepdeploy
    ln -s $PWD/irepdeploy/* $PWD/{bench,export,jetson,search} build/alone/irepdeploy/
    cd build/alone && python3 -m irepdeploy.search.suites.table1 --scale paper --device cuda --out .
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from irepdeploy.board.protocol import Ratio, percentile
from irepdeploy.console import ProgressDisplay
from irepdeploy.data import Split
from irepdeploy.errors import InputError
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

from ..supernet.space import Bits
from ..supernet.supernet import Supernet
from .alone import run_alone
from .rounds import conditions, interval, measure_rounds, place
from .scoring import Scorers, Sizes, per_candidate, speed_up

__all__ = ["main", "table1"]

_BUDGET = "2/3"
_CLASSES = 10


@dataclass(frozen=True)
class _Net:
    """A network of Table 1, with the paper's seconds on an A100: population -> (multi-branch, re-parameterized)."""

    label: str
    name: str
    branches: str
    paper: dict[int, tuple[float, float]]


_VGG16 = _Net("vgg16", "vgg16", "ireps", {64: (1349.4, 499.5), 128: (2681.1, 1000.0), 256: (5336.9, 1823.9)})
_RESNET18 = _Net(
    "resnet18",
    "resnet18_cifar",
    "ireps-resnet-cifar",
    {64: (649.1, 286.3), 128: (1301.6, 571.5), 256: (2685.7, 1133.9)},
)
_VGG6 = _Net("vgg6", "vgg6", "ireps", {})


@dataclass(frozen=True)
class _Scale:
    """Sizes of the measurement: batch sizes and candidates per round of the naive loop and of the evaluator.

    At most `repeats` populations of each size are scored, and none is started that would not finish within `seconds`.
    """

    nets: tuple[_Net, ...]
    images: int
    naive_batch: int
    batch: int
    populations: tuple[int, ...]
    repeats: int
    chunk: int
    naive_chunk: int
    seconds: float = float("inf")


_OF_SCALE = {
    "smoke": _Scale((_VGG6,), 64, 32, 16, (12,), 1, 2, 1),
    # Only the evaluator uses small batches, whose feature maps fit into a processor's cache.
    "small": _Scale((_VGG16, _RESNET18), 1024, 256, 64, (64,), 1, 8, 1),
    "paper": _Scale((_VGG16, _RESNET18), 10_000, 512, 512, (64, 128, 256), 10, 16, 16, seconds=440),
}


@dataclass(frozen=True)
class _Timed:
    """Nanoseconds of each round of one population, by evaluation, and of each fuse."""

    net: _Net
    size: int
    naive_chunk: int
    rounds: dict[str, list[int]]
    fuse: list[int]


def table1(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Time to score a population: multi-branch, fused and fused in bfloat16 (Table 1)."""
    request.refuse("table1", "models", "runners")
    scale = _OF_SCALE[request.scale]
    if request.seconds is not None:
        scale = replace(scale, seconds=min(scale.seconds, request.seconds))
    if request.scale == "paper" and request.device != "cuda":
        raise InputError("the paper's conditions take days on a CPU", where="--scale", hint="--scale small")
    labels = [net.label for net in scale.nets]
    unknown = [name for name in request.only if name not in labels]
    if unknown:
        raise InputError(f"unknown network {unknown[0]!r} in table1", where="--only", hint=f"of {', '.join(labels)}")
    nets = [net for net in scale.nets if not request.only or net.label in request.only]
    with conditions(request), exact_arithmetic():
        subjects = [_Subject(net, scale, request) for net in nets]
        timed = []
        for each in _all_populations(subjects, scale, request, display):
            # Write at once, so that an interrupted run keeps its measurements.
            _record(request, scale, subjects, [each])
            timed.append(each)
    return _report(request, scale, subjects, timed)


class _Subject(Scorers):
    """A network prepared for each kind of evaluation."""

    def __init__(self, net: _Net, scale: _Scale, request: SuiteRequest) -> None:
        self.net = net
        self.scale = scale
        torch.manual_seed(request.seed)
        plain = build_plain(net.name, num_classes=_CLASSES)
        supernet = Supernet(plain, net.branches)
        randomize_statistics(supernet.model, request.seed)
        device = torch.device(request.device)
        supernet.model.eval().to(device)
        shape = (1, 16, 16) if net is _VGG6 else (3, 32, 32)
        images = torch.randn(scale.images, *shape)
        labels = torch.randint(_CLASSES, (scale.images,))
        data = Split(images.to(device), labels.to(device))
        sizes = Sizes(scale.batch, scale.naive_batch, scale.chunk, scale.naive_chunk)
        super().__init__(net.label, supernet, data, sizes, request.seed)
        # Seconds per candidate, naive and fused.
        self.cost = (
            self._seconds(self.naive.evaluate),
            sum(self._seconds(each.evaluate) for each in self.evaluators.values()),
        )
        if not sum(self.cost) * min(scale.populations) * len(scale.nets) < scale.seconds:
            self.sizes = replace(sizes, naive_chunk=1)

    @property
    def naive_chunk(self) -> int:
        """Candidates per round of the naive evaluation."""
        return self.sizes.naive_chunk

    @property
    def seconds_of_round(self) -> float:
        """Seconds per round, estimated from one candidate of each evaluation."""
        return self.cost[0] * self.naive_chunk + self.cost[1] * self.scale.chunk

    def _seconds(self, score: Callable[[Sequence[Bits]], object]) -> float:
        if not math.isfinite(self.scale.seconds):
            return 0.0
        score(self.candidates(1))
        started = time.perf_counter()
        score(self.candidates(1))
        return time.perf_counter() - started


def _all_populations(
    subjects: Sequence[_Subject], scale: _Scale, request: SuiteRequest, display: ProgressDisplay
) -> Iterator[_Timed]:
    """Yield each size of each network once, smallest first, then repeat as often as time allows."""
    end = time.monotonic() + scale.seconds
    for repeat, size, subject in itertools.product(range(scale.repeats), scale.populations, subjects):
        rounds = size // scale.chunk
        if time.monotonic() + rounds * subject.seconds_of_round > end:
            continue
        task = display.task(f"{subject.net.label}, population of {size}, number {repeat + 1}", total=rounds)
        calls = subject.calls(subject.candidates(size))
        samples = measure_rounds(calls, rounds, task, seed=request.seed + repeat)
        fuse = samples.pop("fuse")
        yield _Timed(subject.net, size, subject.naive_chunk, samples, fuse)


def _report(request: SuiteRequest, scale: _Scale, subjects: Sequence[_Subject], timed: Sequence[_Timed]) -> SuiteReport:
    paper = request.scale == "paper"
    columns = ["network", "evaluation", "s per candidate and 1,000 images", "x naive", "95 % interval"]
    if paper:
        columns = ["network", "population", "evaluation", "s", "x naive", "95 % interval", "paper s", "paper x", "n"]
    rows, figures = [], {}
    for subject, size in itertools.product(subjects, scale.populations):
        net = subject.net
        found = [each for each in timed if each.net is net and each.size == size]
        if not found:
            continue
        for name in found[0].rounds:
            seconds, speed = _speed(found, name, scale, request.seed)
            shown = [f"{speed.value:.2f}", interval(speed)] if name != "naive" else ["1", "-"]
            if paper:
                published = net.paper[size][name != "naive"] if name != "fused-bf16" else None
                gain = f"{net.paper[size][0] / net.paper[size][1]:.2f}" if name == "fused" else "-"
                of_paper = ["-" if published is None else f"{published:.1f}", gain, str(len(found))]
                rows.append([net.label, str(size), name, f"{seconds * size:.2f}", *shown, *of_paper])
            else:
                rows.append([net.label, name, f"{seconds / scale.images * 1000:.3f}", *shown])
            figures[f"{net.label} {size} {name}"] = {
                "seconds_per_candidate": seconds,
                "images": scale.images,
                "ratio": None if name == "naive" else speed._asdict(),
                "populations": len(found),
            }
        figures[f"{net.label} {size} fuse"] = {
            "seconds": percentile([t for each in found for t in each.fuse], 50) / 1e9
        }
    return SuiteReport(
        f"Table 1: scoring a population, {scale.images:,} images on {place(request)}",
        columns,
        rows,
        _notes(request, scale, subjects),
        figures,
    )


def _speed(found: Sequence[_Timed], name: str, scale: _Scale, seed: int) -> tuple[float, Ratio]:
    """Return mean seconds per candidate, including the share of the fuse, and the speed-up over naive scoring."""
    naive, own = ([time for each in found for time in _per_candidate(each, which, scale)] for which in ("naive", name))
    return speed_up(naive, own, seed)


def _per_candidate(each: _Timed, name: str, scale: _Scale) -> list[float]:
    """Return the nanoseconds per candidate of each round."""
    return per_candidate(name, each.rounds[name], each.fuse, each.size, scale.chunk, each.naive_chunk)


def _notes(request: SuiteRequest, scale: _Scale, subjects: Sequence[_Subject]) -> list[str]:
    evaluators = subjects[0].evaluators
    rounds = ", ".join(str(size // scale.chunk) for size in scale.populations)
    notes = [
        f"IREPS supernets with random weights, budget {_BUDGET}, fp32 without TF32; random images in memory.",
        f"naive: one module for each kept branch (Eq. 6), NCHW, batches of {scale.naive_batch}; "
        f"fused: one plain network, channels last on a CPU, batches of {scale.batch}, {evaluators['fused'].how}.",
        "fused: includes summing the candidate's kernels, and its share of fusing every branch once per population.",
        f"{rounds} rounds per population, all evaluations in turn; x: ratio of medians; s: means.",
        "logits of a fused and a naive candidate differ by "
        + ", ".join(f"{subject.error:.0e} ({subject.net.label})" for subject in subjects)
        + ".",
    ]
    if request.scale == "paper":
        notes.append(
            "paper: on an A100, batches of 512, its own loading of data included; n: populations that were scored "
            f"within {scale.seconds:.0f} s; a size that did not fit is omitted. Its 63.7 % (VGG-16, population 64) "
            "do not follow from its seconds, which make 63.0 %."
        )
    for subject in subjects:
        if subject.naive_chunk < scale.chunk:
            notes.append(
                f"{subject.net.label}: {subject.naive_chunk} of every {scale.chunk} candidates scored naively."
            )
    if "fused-bf16" not in evaluators:
        notes.append("fused-bf16 is omitted: this device computes bfloat16 no faster than float32.")
    return notes


def _record(request: SuiteRequest, scale: _Scale, subjects: Sequence[_Subject], timed: Sequence[_Timed]) -> None:
    common = {
        "suite": "table1",
        "device": place(request),
        "images": scale.images,
        "batch": scale.batch,
        "naive_batch": scale.naive_batch,
        "candidates_per_round": scale.chunk,
        "how": subjects[0].evaluators["fused"].how,
    }
    lines = [
        {
            **common,
            "network": each.net.label,
            "population": each.size,
            "naive_candidates_per_round": each.naive_chunk,
            "samples_ns": each.rounds,
            "fuse_ns": each.fuse,
        }
        for each in timed
    ]
    request.record(*lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite standalone and return an exit code."""
    return run_alone(table1, "table1", arguments, rows="networks", seconds="time limit for all populations together")


if __name__ == "__main__":
    sys.exit(main())
