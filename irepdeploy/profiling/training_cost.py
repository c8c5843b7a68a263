"""What training costs: seconds a step, interleaved between networks, and peak memory, each in a process of its own.

Run as a program (``python -m irepdeploy.profiling.training_cost CKPT BATCH STEPS``) it is the process that measures the
memory of one checkpoint and prints it as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.checkpoint import load
from irepdeploy.errors import InputError, RunError
from irepdeploy.memory_format import channels_last
from irepdeploy.origin import origin_of
from irepdeploy.runtime.protocol import measure, summary

__all__ = ["TrainingCost", "training_cost"]

_STEPS_FOR_MEMORY = 3


@dataclass(frozen=True)
class TrainingCost:
    """Cost of one training step.

    Args:
        seconds_per_step: median; forward, backward and SGD with momentum.
        samples: how many steps were timed.
        peak_memory_bytes: peak resident memory of a process that trains, above what it had before the network was
            loaded; None where the system does not tell (only Linux does).
    """

    seconds_per_step: float
    samples: int
    peak_memory_bytes: int | None


def training_cost(
    checkpoints: Mapping[str, Path], batch_size: int, *, min_samples: int = 12, min_seconds: float = 1.0, seed: int = 0
) -> dict[str, TrainingCost]:
    """Measure the training step of each checkpoint, all in one run, one step of each in turn (A B A B).

    Args:
        checkpoints: name -> file in train state.
        batch_size: images a step, of seeded random values.

    Raises:
        InputError: a checkpoint is missing, damaged, in fused state or says no input shape.
        RunError: the process that measures memory failed.
    """
    calls = {name: _step(path, batch_size) for name, path in checkpoints.items()}
    timed = measure(calls, seed=seed, min_samples=min_samples, min_seconds=min_seconds, warmup_max_seconds=2.0)
    return {
        name: TrainingCost(
            summary(timed[name].samples_ns).median_ms / 1000,
            len(timed[name].samples_ns),
            _peak_memory_in_child(path, batch_size),
        )
        for name, path in checkpoints.items()
    }


def _step(path: Path, batch_size: int) -> Callable[[], None]:
    """A closed training step on fixed random images."""
    net = channels_last(load(path).train())
    origin = origin_of(net)
    if origin.state != "train":
        raise InputError("a fused network is not trained", where=path, hint="name the checkpoint with branches")
    if not origin.input_shape:
        raise InputError("the checkpoint does not say what the network reads", where=path)
    generator = torch.Generator().manual_seed(0)
    images = channels_last(torch.randn(batch_size, *origin.input_shape, generator=generator))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, foreach=True)

    def step() -> None:
        _train_once(net, images, optimizer)

    return step


def _train_once(net: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    logits = net(images)
    F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.long)).backward()
    optimizer.step()


def _peak_memory_in_child(path: Path, batch_size: int) -> int | None:
    # -P: the current folder must not shadow the installed package.
    command = [sys.executable, "-P", "-m", __name__, str(path.resolve()), str(batch_size), str(_STEPS_FOR_MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"the process that measures memory failed: {lines[-1]}", where=path)
    peak: int | None = json.loads(done.stdout)["peak_memory_bytes"]
    return peak


def _reset_peak() -> int | None:
    """Forget the peak so far and give the memory that is resident now, in bytes; None where the system has neither."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _main(path: str, batch_size: str, steps: str) -> None:
    # One tiny step first, so that what torch loads and keeps for any training is in the start value.
    warm = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(2))
    warm(torch.zeros(2, 1, 8, 8))
    _train_once(warm, torch.zeros(2, 1, 8, 8), torch.optim.SGD(warm.parameters(), lr=0.1, momentum=0.9))
    before = _reset_peak()
    step = _step(Path(path), int(batch_size))
    for _ in range(int(steps)):
        step()
    print(json.dumps({"peak_memory_bytes": None if before is None else _status("VmHWM") - before}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
