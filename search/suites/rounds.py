"""Measure calls under the conditions of a suite, and format the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from irepdeploy.board.protocol import Ratio, measure
from irepdeploy.console import ProgressTask
from irepdeploy.errors import MissingError
from irepdeploy.runs.suite import SuiteRequest

from ..supernet.space import Bits, SearchSpace

__all__ = ["candidates", "conditions", "has_bf16", "interval", "measure_rounds", "place", "synchronized"]


@contextmanager
def conditions(request: SuiteRequest) -> Iterator[None]:
    """Check the device, and set the number of threads and cuDNN's benchmark mode within a ``with`` block."""
    if request.device == "cuda" and not torch.cuda.is_available():
        raise MissingError("torch finds no CUDA device here", where="--device", hint="--device cpu")
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        # All rows use cuDNN's benchmark mode: its heuristic choice would slow all of them down.
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark


def measure_rounds(
    calls: Mapping[str, Callable[[], None]], rounds: int, task: ProgressTask, *, seed: int, warmup_runs: int = 1
) -> dict[str, list[int]]:
    """Return the nanoseconds of each call in each round; within a round all calls take turns."""
    measured = measure(
        calls,
        seed=seed,
        min_samples=rounds,
        max_samples=rounds,
        min_seconds=0,
        warmup_max_runs=warmup_runs,
        on_round=lambda share: task.advance(),
    )
    return {name: each.samples_ns for name, each in measured.items()}


def synchronized(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a function that runs `call` and waits for the device."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def candidates(space: SearchSpace, count: int, random: np.random.Generator) -> list[Bits]:
    """Draw candidates that use the whole budget of 2/3."""
    found = [np.zeros(space.size, dtype=bool) for _ in range(count)]
    for bits in found:
        bits[random.permutation(space.size)[: space.size * 2 // 3]] = True
    return found


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes bfloat16 faster than float32."""
    if device.type == "cuda":
        # By default emulation counts as support, but it is slower than float32.
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def place(request: SuiteRequest) -> str:
    """Return the name of the device that a suite ran on."""
    if request.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{request.threads or torch.get_num_threads()} CPU threads"


def interval(value: Ratio) -> str:
    """Format an interval as "1.31 to 1.67", or "-" for too few samples."""
    return "-" if value.low is None else f"{value.low:.2f} to {value.high:.2f}"
