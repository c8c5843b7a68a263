"""Benchmark ``irepdeploy --help`` against a bare Python and a Python that imports torch.

Run ``python -m irepdeploy.bench.tools.start_time [FILE.jsonl]``; the samples are whole processes, interleaved.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from irepdeploy.board.protocol import PROTOCOL_VERSION, ratio, summary
from irepdeploy.console import table

from .harness import keep_line, samples_of

__all__ = ["measure_start"]

_SAMPLES = 20
_PYTHON = [sys.executable, "-P"]
COMMANDS = {
    "python": [*_PYTHON, "-c", "pass"],
    "irepdeploy --help": [*_PYTHON, "-m", "irepdeploy", "--help"],
    "python, import torch": [*_PYTHON, "-c", "import torch"],
}


def measure_start(samples: int = _SAMPLES) -> dict[str, list[int]]:
    """Return the nanoseconds of each whole process by name, from interleaved rounds."""

    def call(command: list[str]) -> Callable[[], None]:
        return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL).check_returncode()

    return samples_of({name: call(command) for name, command in COMMANDS.items()}, samples)


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    samples = measure_start()
    reference = samples["python"]
    rows = [
        [name, f"{summary(times).median_ms:.0f}", f"{ratio(times, reference, seed=0).value:.2f}"]
        for name, times in samples.items()
    ]
    table("Start of a process", ["command", "median ms", "x python"], rows)
    keep_line(record, "start time", protocol_version=PROTOCOL_VERSION, samples_ns=samples)


if __name__ == "__main__":
    main(*sys.argv[1:2])
