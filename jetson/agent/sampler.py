"""Sample clocks, temperatures and power of the board during a measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.thermal import ThermalReader

from .clocks import ClockReader
from .rails import RailReader, module_mw

__all__ = ["Sample", "Sampler", "mean_rails"]

_CALM_S, _DENSE_S = 1.0, 0.2
# A locked clock may be reported off by one step.
_FALLEN = 0.99
_SHOWN = 600


class Sample(NamedTuple):
    """State of the board at a time of the monotonic clock; unknown values are None or empty."""

    time_s: float
    gpu_hz: int | None
    cpu_hz: int | None
    temperatures_c: dict[str, float]
    rails_mw: dict[str, float]


class Sampler:
    """Takes samples at a fixed pace when `tick` is called."""

    def __init__(self, files: BoardFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._clocks, self._rails, self._zones = ClockReader(files), RailReader(files), ThermalReader(files)
        self._clock = clock
        self._next_s = 0.0
        self.samples: list[Sample] = []
        self._every_s: float | None = None
        self.pinned_gpu_hz: int | None = None

    def start(self, *, dense: bool = False) -> None:
        """Start taking samples, at a faster pace if `dense`."""
        self._every_s = _DENSE_S if dense else _CALM_S
        self._next_s = 0.0

    def stop(self) -> None:
        """Stop taking samples."""
        self._every_s = None

    def tick(self) -> None:
        """Take a sample if one is due."""
        now = self._clock()
        if self._every_s is None or now < self._next_s:
            return
        self._next_s = now + self._every_s
        gpu, cpu = self._clocks.gpu_hz(), self._clocks.cpu_hz()
        self.samples.append(Sample(now, gpu, cpu, self._zones.read(), self._rails.read()))

    def watch_clocks(self) -> None:
        """Remember the clock at which the GPU is locked, to detect if it drops."""
        self.pinned_gpu_hz = self._clocks.pinned_gpu_hz()

    def throttled(self) -> str | None:
        """Return a sentence if a locked GPU clock dropped, else None."""
        pinned = self.pinned_gpu_hz
        seen = [sample.gpu_hz for sample in self.samples if sample.gpu_hz is not None]
        if pinned is None or not seen or min(seen) >= pinned * _FALLEN:
            return None
        share = sum(hz < pinned * _FALLEN for hz in seen) / len(seen)
        return f"the GPU dropped to {min(seen) / 1e6:.0f} of {pinned / 1e6:.0f} MHz in {share:.0%} of the samples"

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Return the samples taken in a span of time."""
        return [sample for sample in self.samples if begin_s <= sample.time_s <= end_s]

    def to_list(self) -> list[dict[str, Any]]:
        """Return the samples as JSON values, thinned if there are very many; times are relative to the first."""
        step = -(-len(self.samples) // _SHOWN) or 1
        first = self.samples[0].time_s if self.samples else 0.0
        return [
            {
                "time_s": round(sample.time_s - first, 2),
                "gpu_hz": sample.gpu_hz,
                "cpu_hz": sample.cpu_hz,
                "temperatures_c": sample.temperatures_c,
                "module_mw": module_mw(sample.rails_mw),
            }
            for sample in self.samples[::step]
        ]


def mean_rails(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean power in mW of each rail that all samples have."""
    first = samples[0].rails_mw if samples else {}
    names = [name for name in first if all(name in each.rails_mw for each in samples)]
    return {name: sum(each.rails_mw[name] for each in samples) / len(samples) for name in names}
