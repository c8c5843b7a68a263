"""Suite supernet-step: the time of one step of the supernet, its breakdown, and the projected cost of a search.

It runs standalone; besides the package it needs only torch, numpy, onnx and onnxruntime::

    python -m irepdeploy.search.suites.supernet_step --scale paper --device cuda --out runs/supernet_step
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from irepdeploy.board.protocol import ratio, summary
from irepdeploy.console import ProgressDisplay
from irepdeploy.data import Split
from irepdeploy.network.nets import build_plain
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.runtime.memory import keep_freed_memory
from irepdeploy.runtime.memory_format import channels_last

from ..evaluation.evaluate import PopulationEvaluator
from ..supernet.supernet import Supernet
from .alone import run_alone
from .breakdown import breakdown
from .naive_step import NaiveSupernet
from .rounds import candidates, conditions, has_bf16, interval, measure_rounds, place, synchronized

__all__ = ["RECIPE", "main", "supernet_step"]


@dataclass(frozen=True)
class SearchPlan:
    """Sizes of a search, as in its recipe."""

    train_images: int
    val_images: int
    batch_size: int
    warmup_epochs: int
    epochs: int
    subnets: int
    evolutions: int
    population: int

    def seconds(self, warmup_step: float, step: float, evaluation: float) -> float:
        """Return the seconds of a search from those of a warm-up step, a search step, and scoring a population."""
        steps = -(-self.train_images // self.batch_size)
        training = self.warmup_epochs * warmup_step + (self.epochs - self.warmup_epochs) * step
        return steps * training + self.evolutions * evaluation


_CLASSES = 10
# Table 2's IrepVGG-16: the recipe irep_vgg16_cifar10.
RECIPE = SearchPlan(45_000, 5_000, 128, 20, 500, 5, 48, 128)


@dataclass(frozen=True)
class _Scale:
    """Sizes of the measurement; for the projection, `candidates` are scored on `val` images each."""

    net: str
    shape: tuple[int, int, int]
    batch: int
    subnets: int
    candidates: int
    val: int
    rounds: int


_OF_SCALE = {
    "smoke": _Scale("vgg6", (1, 16, 16), 16, 1, 2, 64, 2),
    "small": _Scale("vgg16", (3, 32, 32), 128, 1, 2, 500, 10),
    "paper": _Scale("vgg16", (3, 32, 32), 128, 5, 8, 5_000, 40),
}
_NAIVE, _EXACT, _MERGED, _BF16 = "naive", "exact", "merged", "exact, bf16"
_AS_IT_IS, _KEPT = "as it is", "kept"

# Nanoseconds of each call, round by round.
Samples = dict[str, list[int]]


def supernet_step(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Time of a naive and of our step of the supernet, its breakdown, and the projected cost of Table 2's search."""
    request.refuse("supernet-step", "models", "runners", "seconds", "only")
    scale = _OF_SCALE[request.scale]
    with conditions(request):
        subject = _Subject(scale, request)

        def measured(calls: dict[str, Callable[[], None]]) -> Samples:
            task = display.task(", ".join(calls), scale.rounds)
            return measure_rounds(calls, scale.rounds, task, seed=request.seed, warmup_runs=2)

        steps = {_AS_IT_IS: measured(subject.calls)}
        try:
            if request.device == "cpu" and keep_freed_memory():
                steps[_KEPT] = measured(subject.calls)
            parts = breakdown(subject.calls[_EXACT], subject.device)
            rest = measured(subject.projected)
        finally:
            keep_freed_memory(False)
    request.record(
        {
            "suite": "supernet-step",
            "network": scale.net,
            "device": place(request),
            "conditions": asdict(scale),
            "samples_ns": {**steps, "projected": rest},
            "breakdown": parts,
        }
    )
    return _report(request, scale, steps, rest, parts)


class _Subject:
    """The supernets, a batch, and the calls that are timed."""

    def __init__(self, scale: _Scale, request: SuiteRequest) -> None:
        self.scale = scale
        self.device = torch.device(request.device)
        torch.manual_seed(request.seed)
        supernet = Supernet(build_plain(scale.net, num_classes=_CLASSES), "ireps")
        naive = NaiveSupernet(supernet.model, supernet.space)
        supernet.model.to(self.device).train()
        naive.model.to(self.device).train()
        merged = Supernet(build_plain(scale.net, num_classes=_CLASSES), "ireps", step="merged")
        merged.model.to(self.device).train()
        images = channels_last(torch.randn(scale.batch, *scale.shape)).to(self.device)
        labels = torch.randint(_CLASSES, (scale.batch,)).to(self.device)
        random = np.random.default_rng(request.seed)
        subnets = candidates(supernet.space, scale.subnets, random)
        scored = candidates(supernet.space, scale.candidates, random)
        weights = torch.optim.SGD(supernet.weights(), lr=1e-4, momentum=0.9, weight_decay=3e-4, foreach=True)
        arch = torch.optim.Adam(supernet.arch_parameters(), lr=1e-4, betas=(0.5, 0.999), foreach=True)
        validation = Split(torch.randn(scale.val, *scale.shape), torch.randint(_CLASSES, (scale.val,)))
        evaluator = PopulationEvaluator(supernet, validation, min(512, scale.val))

        def optimizers() -> None:
            weights.step()
            arch.step()

        def evaluation() -> None:
            evaluator.refresh()
            evaluator.evaluate(scored)

        calls: dict[str, Callable[[], object]] = {
            _NAIVE: lambda: naive.step(images, labels, subnets),
            _EXACT: lambda: supernet.accumulate(images, labels, subnets),
            _MERGED: lambda: merged.accumulate(images, labels, subnets),
        }
        if has_bf16(self.device):
            calls[_BF16] = lambda: supernet.accumulate(images, labels, subnets, amp=True)
        projected: dict[str, Callable[[], object]] = {
            "warm-up": lambda: supernet.accumulate(images, labels, [None]),
            "optimizers": optimizers,
            "fuse": evaluator.refresh,
            "evaluation": evaluation,
        }
        self.calls = {name: synchronized(call, self.device) for name, call in calls.items()}
        self.projected = {name: synchronized(call, self.device) for name, call in projected.items()}


def _report(
    request: SuiteRequest,
    scale: _Scale,
    measured: dict[str, Samples],
    rest: Samples,
    parts: dict[str, float],
) -> SuiteReport:
    rows: list[list[str]] = []
    figures: dict[str, Any] = {"breakdown": parts}
    naive = measured[_AS_IT_IS][_NAIVE]
    for memory, calls in measured.items():
        for name, found in calls.items():
            beside = ratio(calls[_NAIVE], found, request.seed)
            against = ratio(naive, found, request.seed, paired=memory == _AS_IT_IS)
            seconds = _seconds(found)
            plan = _projected(scale, found, rest)
            itself = name == _NAIVE
            rows.append(
                [
                    name,
                    memory,
                    f"{seconds:.3f}",
                    "1" if itself else f"{beside.value:.2f}",
                    "-" if itself else interval(beside),
                    f"{against.value:.2f}",
                    f"{plan / 86400:.2f}",
                ]
            )
            figures[f"{name}, {memory}"] = {
                "seconds": seconds,
                "ratio": beside._asdict(),
                "against_naive_as_it_is": against._asdict(),
                "search_days": plan / 86400,
            }
    return SuiteReport(
        f"Supernet step, {scale.net}, batch {scale.batch}, {scale.subnets} subnets, on {place(request)}",
        ["step", "freed memory", "s", "x naive", "95 % interval", "x naive as it is", "search, days"],
        rows,
        _notes(scale, parts, rest),
        figures,
    )


def _seconds(samples: list[int]) -> float:
    return summary(samples).median_ms / 1e3


def _projected(scale: _Scale, step: list[int], rest: Samples) -> float:
    """Return the seconds of the whole search, projected from the measured medians."""
    seconds = {name: _seconds(found) for name, found in rest.items()}
    each = max(seconds["evaluation"] - seconds["fuse"], 0.0) / scale.candidates * RECIPE.val_images / scale.val
    return RECIPE.seconds(
        seconds["warm-up"] + seconds["optimizers"],
        _seconds(step) * RECIPE.subnets / scale.subnets + seconds["optimizers"],
        seconds["fuse"] + each * RECIPE.population,
    )


def _notes(scale: _Scale, parts: dict[str, float], rest: Samples) -> list[str]:
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in parts.items())
    others = ", ".join(f"{name} {_seconds(found):.3f} s" for name, found in rest.items())
    return [
        "forward and backward passes of the subnets, budget 2/3, random weights; all channels last. naive: torch's "
        "own layers, alpha and beta multiplied onto feature maps. merged: batch statistics from a sample.",
        f"{scale.rounds} rounds, the rows of one kind of memory in turn; x: ratio of medians. TF32 as torch has it.",
        "freed memory kept: glibc is told not to give the pages of freed maps back, as `irepdeploy search` does; "
        "x naive: in the same kind of memory.",
        f"where the time of the exact step goes: {shares}.",
        f"search, days: {RECIPE.epochs} epochs of {RECIPE.train_images:,} images in batches of {RECIPE.batch_size}, "
        f"{RECIPE.subnets} subnets a step, {RECIPE.evolutions} populations of {RECIPE.population} scored on "
        f"{RECIPE.val_images:,} images, projected from the medians of this step and of {others} "
        f"({scale.candidates} candidates, {scale.val:,} images); the paper's search took 16 GPU-days.",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite standalone and return an exit code."""
    return run_alone(supernet_step, "supernet_step", arguments)


if __name__ == "__main__":
    sys.exit(main())
