"""Benchmark ``irepdeploy --help`` against a bare Python and a Python that imports torch.

Run ``python -m irepdeploy.bench.tools.start_time [FILE.jsonl]``; the samples are whole processes, interleaved.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from irepdeploy.board.protocol import PROTOCOL_VERSION, measure, ratio, summary
from irepdeploy.board.system import system_block
from irepdeploy.console import table
from irepdeploy.files import append_line

__all__ = ["measure_start"]

_SAMPLES = 20
_PYTHON = [sys.executable, "-P"]
COMMANDS = {
    "python": [*_PYTHON, "-c", "pass"],
    "irepdeploy --help": [*_PYTHON, "-m", "irepdeploy", "--help"],
    "python, import torch": [*_PYTHON, "-c", "import torch"],
}


def measure_start(samples: int = _SAMPLES) -> dict[str, list[int]]:
    """Nanoseconds of each whole process, by name, measured in turn."""

    def call(command: list[str]) -> Callable[[], None]:
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL).check_returncode()

    calls = {name: call(command) for name, command in COMMANDS.items()}
    measured = measure(calls, seed=0, min_samples=samples, max_samples=samples, warmup_max_runs=2)
    return {name: each.samples_ns for name, each in measured.items()}


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    samples = measure_start()
    reference = samples["python"]
    rows = []
    for name, times in samples.items():
        found = ratio(times, reference, seed=0)
        rows.append([name, f"{summary(times).median_ms:.0f}", f"{found.value:.2f}"])
    table("Start of a process", ["command", "median ms", "x python"], rows)
    if record is not None:
        line = {
            "benchmark": "start time",
            "protocol_version": PROTOCOL_VERSION,
            "created": datetime.now(UTC).isoformat(),
            "system": system_block(),
            "samples_ns": samples,
        }
        append_line(Path(record), line)


if __name__ == "__main__":
    main(*sys.argv[1:2])
