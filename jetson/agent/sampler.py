"""Sampler: clocks, temperatures and power of the board while something else measures.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .board_files import BoardFiles
from .clocks import ClockReader
from .rails import RailReader, module_mw
from .thermal import ThermalReader

__all__ = ["Sample", "Sampler", "mean_rails"]

_CALM_S, _DENSE_S = 1.0, 0.2
# A clock that is held may be reported a step off.
_FALLEN = 0.99
_SHOWN = 600


class Sample(NamedTuple):
    """The board at a moment of the monotonic clock; None and empty where it does not tell."""

    time_s: float
    gpu_hz: int | None
    cpu_hz: int | None
    temperatures_c: dict[str, float]
    rails_mw: dict[str, float]


class Sampler:
    """Takes samples when its `tick` is called and one is due.

    Args:
        clock: in seconds, the same for all processes of the machine.
    """

    def __init__(self, files: BoardFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._clocks, self._rails, self._zones = ClockReader(files), RailReader(files), ThermalReader(files)
        self._clock = clock
        self._due = 0.0
        self.samples: list[Sample] = []
        self._every_s: float | None = None
        self.pinned_gpu_hz: int | None = None

    @property
    def has_rails(self) -> bool:
        """Whether the board can tell its power."""
        return bool(self._rails.rails)

    def start(self, *, dense: bool = False) -> None:
        """Take samples from now on, many where `dense`."""
        self._every_s = _DENSE_S if dense else _CALM_S
        self._due = 0.0

    def stop(self) -> None:
        """Take no more."""
        self._every_s = None

    def tick(self) -> None:
        """Take a sample if one is due."""
        now = self._clock()
        if self._every_s is None or now < self._due:
            return
        self._due = now + self._every_s
        gpu, cpu = self._clocks.gpu_hz(), self._clocks.cpu_hz()
        self.samples.append(Sample(now, gpu, cpu, self._zones.read(), self._rails.read()))

    def watch_clocks(self) -> None:
        """Remember what the GPU's clock is held at, to see it fall."""
        self.pinned_gpu_hz = self._clocks.pinned_gpu_hz()

    def throttled(self) -> str | None:
        """Whether a clock that was held fell, as a sentence; None if it did not, or was not held."""
        due = self.pinned_gpu_hz
        seen = [sample.gpu_hz for sample in self.samples if sample.gpu_hz is not None]
        if due is None or not seen or min(seen) >= due * _FALLEN:
            return None
        share = sum(hz < due * _FALLEN for hz in seen) / len(seen)
        return f"the GPU fell to {min(seen) / 1e6:.0f} of {due / 1e6:.0f} MHz, in {share:.0%} of the samples"

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Samples of a span."""
        return [sample for sample in self.samples if begin_s <= sample.time_s <= end_s]

    def to_list(self) -> list[dict[str, Any]]:
        """JSON-able, thinned where there are very many; seconds from the first."""
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
    """Mean power in mW of each rail over samples that all have it."""
    first = samples[0].rails_mw if samples else {}
    names = [name for name in first if all(name in each.rails_mw for each in samples)]
    return {name: sum(each.rails_mw[name] for each in samples) / len(samples) for name in names}
