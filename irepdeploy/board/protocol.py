"""Measuring latencies, and the statistics derived from raw samples.

Warm up until times are steady, then run all calls interleaved in rounds, so that drift of the machine affects all of
them alike. All raw samples are kept and nothing is clipped: an outlier is a fact about the device.
"""

from __future__ import annotations

import collections
import gc
import math
import random
import time
from dataclasses import dataclass, field
from typing import Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from irepdeploy.errors import InputError

__all__ = [
    "PROTOCOL_VERSION",
    "Measurement",
    "Ratio",
    "Summary",
    "cov",
    "measure",
    "percentile",
    "ratio",
    "sample_fault",
    "summary",
]

# Increase it with every change that makes old and new samples incomparable.
PROTOCOL_VERSION = 1

# The fewest samples for which a percentile is reported, by MLPerf LoadGen's early stopping (confidence 0.99).
MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662
# With fewer, no interval of order statistics covers a median with 95 %: 2 * 0.5**5 > 0.05.
MIN_ROUNDS_INTERVAL = 6
# Thirty years: not a measurement, and beyond the range of exact floats.
_MOST_NS = 10**18


@dataclass(frozen=True)
class Measurement:
    """Raw times of one call, in the order they were taken, and how its warm-up ended.

    Attributes:
        samples_ns: Times in ns. Of calls measured together, the i-th samples come from the same round.
        steady: Whether the last window of the warm-up was below the limit.
        warmup_cov: Coefficient of variation of that window; None with fewer than two runs.
        device_samples_ns: The same runs by the device's clock; [] if it has none.
    """

    name: str
    samples_ns: List[int]
    warmup_runs: int
    steady: bool
    warmup_cov: Optional[float]
    device_samples_ns: List[int] = field(default_factory=list)


class Summary(NamedTuple):
    """Summary of raw samples. A percentile is None if there are too few samples to report it."""

    n: int
    median_ms: float
    min_ms: float
    mean_ms: float
    p90_ms: Optional[float]
    p99_ms: Optional[float]
    cov: Optional[float]


class Ratio(NamedTuple):
    """A ratio of medians and its 95 % interval, None if there are too few rounds for one."""

    value: float
    low: Optional[float]
    high: Optional[float]


def measure(
    calls: Mapping[str, Callable[[], None]],
    *,
    seed: int,
    min_samples: int = MIN_SAMPLES_P90,
    min_seconds: float = 5.0,
    max_samples: int = 10_000,
    warmup_window: int = 16,
    warmup_cov: float = 0.025,
    warmup_min_seconds: float = 0.5,
    warmup_max_seconds: float = 5.0,
    warmup_max_runs: int = 2_000,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_round: Optional[Callable[[float], None]] = None,
) -> Dict[str, Measurement]:
    """Time calls, interleaved.

    Each call is warmed up until the coefficient of variation of its last `warmup_window` runs is below `warmup_cov`
    and `warmup_min_seconds` have passed, or a limit is reached. Rounds follow that run every call once, in an order
    shuffled by `seed`, until each call has `min_samples` samples and `min_seconds` on average, or `max_samples`. The
    garbage collector is off meanwhile.

    A call runs one inference to completion (`Runner.bind`). If it has a method ``device_ns`` (`DeviceTimed`), the
    device's time is read after each run. That, and `on_round`, which gets the share done (0 to 1) after each round, are
    outside the timed part. `clock` is a monotonic clock in nanoseconds.

    Raises:
        InputError: If there are no calls, or limits contradict each other.
    """
    if not calls:
        raise InputError("nothing to measure", where="measure", hint="pass at least one call")
    if not 1 <= min_samples <= max_samples or min_seconds < 0:
        raise InputError(
            f"cannot take at least {min_samples} and at most {max_samples} samples in {min_seconds} s or more",
            where="measure",
            hint="use 1 <= min_samples <= max_samples and min_seconds >= 0",
        )
    if warmup_window < 2 or warmup_max_runs < 1:
        raise InputError(
            f"cannot warm up with a window of {warmup_window} runs and at most {warmup_max_runs} runs",
            where="measure",
            hint="use a window of 2 or more",
        )
    names = list(calls)
    samples: Dict[str, List[int]] = {name: [] for name in names}
    device_samples: Dict[str, List[int]] = {name: [] for name in names}
    device_clocks = {name: getattr(calls[name], "device_ns", None) for name in names}
    shuffler = random.Random(seed)
    wanted_ns = min_seconds * 1e9 * len(names)
    spent_ns = 0
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        warmups = {
            name: _warm_up(
                calls[name], clock, warmup_window, warmup_cov, warmup_min_seconds, warmup_max_seconds, warmup_max_runs
            )
            for name in names
        }
        for done in range(1, max_samples + 1):
            order = names[:]
            shuffler.shuffle(order)
            for name in order:
                call = calls[name]
                start = clock()
                call()
                elapsed = clock() - start
                samples[name].append(elapsed)
                spent_ns += elapsed
                device_clock = device_clocks[name]
                if device_clock is not None:
                    device_samples[name].append(device_clock())
            share = min(done / min_samples, spent_ns / wanted_ns if wanted_ns else 1.0)
            share = min(max(share, done / max_samples), 1.0)
            if on_round is not None:
                on_round(share)
            if share >= 1.0:
                break
    finally:
        if collecting:
            gc.enable()
    return {name: Measurement(name, samples[name], *warmups[name], device_samples[name]) for name in names}


class _WarmUp(NamedTuple):
    runs: int
    steady: bool
    cov: Optional[float]


def _warm_up(
    call: Callable[[], None],
    clock: Callable[[], int],
    window: int,
    limit: float,
    min_seconds: float,
    max_seconds: float,
    max_runs: int,
) -> _WarmUp:
    times: Deque[int] = collections.deque(maxlen=window)
    began = clock()
    for runs in range(1, max_runs + 1):
        start = clock()
        call()
        end = clock()
        times.append(end - start)
        spread = cov(times)
        passed = (end - began) / 1e9
        if len(times) == window and spread is not None and spread < limit and passed >= min_seconds:
            return _WarmUp(runs, True, spread)
        if passed >= max_seconds:
            break
    return _WarmUp(runs, False, spread)


def sample_fault(samples_ns: Sequence[int]) -> Optional[str]:
    """Return why samples cannot be computed with, or None."""
    if max(samples_ns) > _MOST_NS:
        return "a sample of more than thirty years"
    return None if min(samples_ns) > 0 else "a sample of 0 ns"


def percentile(samples: Sequence[float], p: float) -> float:
    """Return the nearest-rank percentile ``sorted[ceil(p/100 * n) - 1]``, which is always one of the samples."""
    if len(samples) == 0 or not 0 < p <= 100:
        raise InputError(f"no percentile {p} of {len(samples)} samples", where="percentile", hint="use 0 < p <= 100")
    # p * n first: 0.07 * 100 is 7.000000000000001 and would take the next rank; 7 * 100 / 100 does not.
    return sorted(samples)[math.ceil(p * len(samples) / 100) - 1]


def cov(samples: Sequence[float]) -> Optional[float]:
    """Return the coefficient of variation, standard deviation (n - 1) over mean; None below two samples."""
    n = len(samples)
    mean = sum(samples) / n if n else 0.0
    if n < 2 or mean <= 0:
        return None
    return math.sqrt(sum((x - mean) ** 2 for x in samples) / (n - 1)) / mean


def summary(samples_ns: Sequence[int]) -> Summary:
    """Summarize samples: p90 only from 64 samples on, p99 only from 662; no sample is dropped."""
    n = len(samples_ns)
    median_ms = percentile(samples_ns, 50) / 1e6
    return Summary(
        n=n,
        median_ms=median_ms,
        min_ms=min(samples_ns) / 1e6,
        mean_ms=sum(samples_ns) / n / 1e6,
        p90_ms=percentile(samples_ns, 90) / 1e6 if n >= MIN_SAMPLES_P90 else None,
        p99_ms=percentile(samples_ns, 99) / 1e6 if n >= MIN_SAMPLES_P99 else None,
        cov=cov(samples_ns),
    )


def ratio(
    samples_a: Sequence[int], samples_b: Sequence[int], seed: int, *, paired: bool = True, resamples: int = 2_000
) -> Ratio:
    """Return ``median(a) / median(b)`` with a 95 % bootstrap interval; above 1, a is slower.

    The interval is about these two calls: loading the same file twice already gives medians that differ by about
    0.4 %.

    It is a percentile bootstrap over rounds. A round is drawn with the samples of both calls, which met the same state
    of the machine, so that drift shared by both does not widen the interval. Rounds are drawn in blocks of
    ``ceil(n ** (1/3))`` neighbours (circular block bootstrap), because a disturbance lasts for several rounds, and
    drawing rounds one by one would pretend more independent samples than there are. On simulated noise of 400 rounds
    the interval covers the truth in 95 % of cases with independent noise, 97 % with bursts, 100 % with shared drift; if
    each call drifts slowly by itself, it is too narrow (76 %; rounds drawn one by one: 43 %). Medians rather than
    means, because an interrupt is not the network's latency.

    Paired samples come from the same `measure`, in its order; samples of different runs (`paired` False) are drawn
    separately.

    Raises:
        InputError: If there are no samples, or paired ones differ in number.
    """
    if paired and len(samples_a) != len(samples_b):
        raise InputError(
            f"{len(samples_a)} and {len(samples_b)} samples cannot be paired",
            where="ratio",
            hint="pass paired=False for samples of different runs",
        )
    value = percentile(samples_a, 50) / percentile(samples_b, 50)
    if min(len(samples_a), len(samples_b)) < MIN_ROUNDS_INTERVAL:
        return Ratio(value, None, None)
    a, b = np.asarray(samples_a), np.asarray(samples_b)
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = []
    for _ in range(resamples):
        rounds_a = _blocks(rng, len(a))
        rounds_b = rounds_a if paired else _blocks(rng, len(b))
        drawn.append(_median(a[rounds_a]) / _median(b[rounds_b]))
    return Ratio(value, percentile(drawn, 2.5), percentile(drawn, 97.5))


def _blocks(rng: np.random.Generator, n: int) -> np.ndarray:
    length = math.ceil(n ** (1 / 3))
    starts = rng.integers(0, n, size=math.ceil(n / length))
    return (starts[:, None] + np.arange(length)).ravel()[:n] % n


def _median(samples: np.ndarray) -> float:
    # Nearest rank, like `percentile`.
    rank = math.ceil(len(samples) / 2) - 1
    return float(np.partition(samples, rank)[rank])
