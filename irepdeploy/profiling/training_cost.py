"""Measure the cost of training: seconds per step, alternating between networks, and peak memory in separate processes.

As a program (``python -m irepdeploy.profiling.training_cost CKPT BATCH STEPS DEVICE FACTORY STEP``), this module
measures the memory of one checkpoint and prints it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.board.protocol import measure, summary
from irepdeploy.errors import InputError, RunError
from irepdeploy.network.checkpoint import load
from irepdeploy.network.factory import load_model_factory
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.origin import FUSED, origin_of
from irepdeploy.reparam.step import set_step
from irepdeploy.runtime.compiled import compile_step
from irepdeploy.runtime.memory import is_out_of_memory, peak_bytes, reset_peak
from irepdeploy.runtime.memory_format import channels_last
from irepdeploy.runtime.torch_runner import flattened

__all__ = ["PeakMemory", "StepTime", "TrainingCost", "peak_memory", "step_times", "training_cost", "training_step"]

_STEPS_FOR_MEMORY = 3


@dataclass(frozen=True)
class StepTime:
    """Time of a training step: forward, backward, and an update by SGD with momentum.

    Attributes:
        seconds: Median time of one step.
        samples: Number of steps that were timed.
    """

    seconds: float
    samples: int


@dataclass(frozen=True)
class PeakMemory:
    """Memory of a training process.

    Attributes:
        peak_bytes: On the CPU, the growth of peak resident memory since before the network was loaded (only on Linux).
            On CUDA, the peak amount that torch allocated on the device. None if it is unknown or memory ran out.
        out_of_memory: Whether memory ran out.
    """

    peak_bytes: int | None
    out_of_memory: bool = False


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one training step; see `StepTime` and `PeakMemory`."""

    seconds_per_step: float
    samples: int
    peak_memory_bytes: int | None


def training_cost(
    checkpoints: Mapping[str, Path], batch_size: int, *, min_samples: int = 12, min_seconds: float = 1.0, seed: int = 0
) -> dict[str, TrainingCost]:
    """Measure the training step of each checkpoint on the CPU in one run, alternating between them (A B A B).

    Args:
        checkpoints: Checkpoints with branches, by name.
        batch_size: Number of images per step.
        min_samples: Least number of steps to time for each checkpoint.
        min_seconds: Least time in seconds to spend on each checkpoint.
        seed: Seed of the order.

    Raises:
        InputError: A checkpoint is fused, or has no input shape.
        RunError: Memory ran out, or a step failed.
    """
    nets = {name: load(path) for name, path in checkpoints.items()}
    for name, net in nets.items():
        if origin_of(net).state == FUSED:
            hint = "give the checkpoint with branches"
            raise InputError("a fused network cannot be trained", where=checkpoints[name], hint=hint)
    peaks = {}
    for name, path in checkpoints.items():
        memory = peak_memory(path, batch_size)
        if memory.out_of_memory:
            raise RunError("out of memory", where=path, hint="use a smaller batch")
        peaks[name] = memory.peak_bytes
    times = step_times(nets, batch_size, min_samples=min_samples, min_seconds=min_seconds, seed=seed)
    return {name: TrainingCost(time.seconds, time.samples, peaks[name]) for name, time in times.items()}


def step_times(
    nets: Mapping[str, nn.Module],
    batch_size: int,
    *,
    device: str = "cpu",
    min_samples: int = 12,
    min_seconds: float = 1.0,
    seed: int = 0,
    on_round: Callable[[float], None] | None = None,
) -> dict[str, StepTime]:
    """Time the training step of each network, alternating between them.

    The networks are trained in place and left in train mode.

    Args:
        nets: The networks by name.
        batch_size: Number of images per step.
        device: "cpu" or "cuda".
        min_samples: Least number of steps to time for each network.
        min_seconds: Least time in seconds to spend on each network.
        seed: Seed of the order.
        on_round: Function that is called after each round with the completed share of the work, from 0 to 1.
    """
    calls = {name: training_step(net, batch_size, device, name) for name, net in nets.items()}
    timed = measure(
        calls, seed=seed, min_samples=min_samples, min_seconds=min_seconds, warmup_max_seconds=2.0, on_round=on_round
    )
    return {
        name: StepTime(summary(found.samples_ns).median_ms / 1000, len(found.samples_ns))
        for name, found in timed.items()
    }


def peak_memory(
    checkpoint: Path, batch_size: int, *, device: str = "cpu", factory: str | None = None, step: str = "exact"
) -> PeakMemory:
    """Train a checkpoint for a few steps in a separate process, and measure its memory.

    Args:
        checkpoint: The checkpoint.
        batch_size: Number of images per step.
        device: "cpu" or "cuda".
        factory: Name of the function that builds a foreign class, as ``package.module:function``.
        step: "exact", "merged", or "frozen" for batch normalizations in eval mode.

    Raises:
        RunError: The process failed for another reason than memory.
    """
    # -P prevents the current folder from shadowing the installed package.
    command = [sys.executable, "-P", "-m", __name__, str(checkpoint.resolve())]
    command += [str(batch_size), str(_STEPS_FOR_MEMORY), device, factory or "", step]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # If memory runs out, the system may kill the process before an allocation fails.
    if done.returncode == -signal.SIGKILL:
        return PeakMemory(None, out_of_memory=True)
    if done.returncode != 0:
        code = done.returncode
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = done.stderr.strip().splitlines() or [ended]
        raise RunError(f"the process that measures memory failed: {lines[-1]}", where=checkpoint)
    # The user's module may print when it is imported, so only the last line is read.
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def training_step(
    net: nn.Module, batch_size: int, device: str, where: object, *, frozen: bool = False, compiled: bool = False
) -> Callable[[], None]:
    """Return a function that runs a training step on fixed random images.

    Args:
        net: The network; it is trained in place.
        batch_size: Number of images per step.
        device: "cpu" or "cuda".
        where: Name of the network in error messages.
        frozen: Keep every batch normalization in eval mode.
        compiled: Compile the step with torch.compile.

    Raises:
        InputError: The network has no input shape.
    """
    origin = origin_of(net)
    if not origin.input_shape:
        raise InputError("the network has no input shape", where=where)
    net = channels_last(net.train().to(device).requires_grad_(True))
    for module in net.modules() if frozen else ():
        if isinstance(module, NORMS):
            module.eval()
    dtype = next((parameter.dtype for parameter in net.parameters()), torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, *origin.input_shape, generator=generator)
    if images.dim() == 4:
        images = channels_last(images)
    images = images.to(device, dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, foreach=True)

    call = compile_step(net, images.device, "compiled") if compiled else net

    def step() -> None:
        _train_once(call, images, optimizer)
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def _train_once(net: Callable[[Tensor], Any], images: Tensor, optimizer: torch.optim.Optimizer) -> None:
    _loss(net(images)).backward()
    optimizer.step()
    # Gradients are freed at the end, because steps of other networks run in between.
    optimizer.zero_grad(set_to_none=True)


def _loss(outputs: Any) -> Tensor:
    """Return the cross-entropy of logits (N, classes), or the sum of the mean squares of any other outputs."""
    if isinstance(outputs, Tensor) and outputs.dim() == 2:
        return F.cross_entropy(outputs, torch.zeros(len(outputs), dtype=torch.long, device=outputs.device))
    trained = [output for output in flattened(outputs) if isinstance(output, Tensor) and output.requires_grad]
    return torch.stack([output.float().square().mean() for output in trained]).sum()


def _measured(path: str, batch_size: int, steps: int, device: str, factory: str, how: str = "exact") -> PeakMemory:
    # Run one tiny step first, so that the initial value includes what torch allocates for any training.
    warm = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(2)).to(device)
    images = torch.zeros(2, 1, 8, 8, device=device)
    warm(images)
    _train_once(warm, images, torch.optim.SGD(warm.parameters(), lr=0.1, momentum=0.9))
    build = load_model_factory(factory) if factory else None
    before = reset_peak()
    try:
        net = load(path, model=build)
        if how == "merged":
            set_step(net, "merged")
        step = training_step(net, batch_size, device, path, frozen=how == "frozen")
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            step()
    except Exception as error:  # torch and Python raise several types when memory runs out
        if is_out_of_memory(error):
            return PeakMemory(None, out_of_memory=True)
        raise
    if device != "cpu":
        return PeakMemory(torch.cuda.max_memory_allocated())
    return PeakMemory(None if before is None else peak_bytes() - before)


def _main(path: str, batch_size: str, steps: str, device: str, factory: str, step: str) -> None:
    # If memory runs out, the kernel should kill this process instead of the one that waits for it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    found = _measured(path, int(batch_size), int(steps), device, factory, step)
    print(json.dumps(vars(found)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
