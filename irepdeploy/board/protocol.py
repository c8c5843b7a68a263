"""The protocol for measuring latencies, and the statistics of raw samples.

After a warm-up until times are steady, all calls run interleaved in rounds, so that drift of the machine affects them
all equally. All raw samples are kept and nothing is clipped, because outliers are part of the device's behaviour.
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

# Increase this with every change that makes new samples incomparable with old ones.
PROTOCOL_VERSION = 1

# Minimum number of samples for reporting a percentile, by MLPerf LoadGen's early stopping (confidence 0.99).
MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662
# With fewer rounds, no interval of order statistics covers the median with 95 %: 2 * 0.5**5 > 0.05.
MIN_ROUNDS_INTERVAL = 6
# Thirty years: no valid measurement, and beyond the range of exact floats.
_MOST_NS = 10**18


@dataclass(frozen=True)
class Measurement:
    """Raw times of one call, in measuring order, and the outcome of its warm-up.

    Attributes:
        name: Name of the call.
        samples_ns: Times in ns. For calls measured together, the i-th samples come from the same round.
        warmup_runs: Number of runs in the warm-up.
        steady: Whether the coefficient of variation of the last warm-up window was below the limit.
        warmup_cov: Coefficient of variation of that window; None with fewer than two runs.
        device_samples_ns: Times of the same runs by the device's clock, in ns; [] if the device has none.
    """

    name: str
    samples_ns: List[int]
    warmup_runs: int
    steady: bool
    warmup_cov: Optional[float]
    device_samples_ns: List[int] = field(default_factory=list)


class Summary(NamedTuple):
    """Summary statistics of raw samples. A percentile is None if there are too few samples for it."""

    n: int
    median_ms: float
    min_ms: float
    mean_ms: float
    p90_ms: Optional[float]
    p99_ms: Optional[float]
    cov: Optional[float]


class Ratio(NamedTuple):
    """A ratio of medians and its 95 % interval; the bounds are None if there are too few rounds."""

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
    """Measure the times of several calls in interleaved rounds.

    Each call is first warmed up until the coefficient of variation of its last `warmup_window` runs is below
    `warmup_cov` and `warmup_min_seconds` have passed, or until a limit is reached. Then each round runs every call
    once, in shuffled order, until there are `min_samples` samples per call and `min_seconds` per call on average, or
    `max_samples`. The garbage collector is disabled meanwhile.

    Args:
        calls: Functions by name; each runs one inference to completion (see `Runner.bind`). If one has a method
            ``device_ns`` (see `DeviceTimed`), the device's time is read after each run, outside the timed part.
        seed: Seed of the order within rounds.
        min_samples: Minimum number of samples per call.
        min_seconds: Minimum measuring time per call, on average.
        max_samples: Maximum number of samples per call.
        warmup_window: Number of runs over which steadiness is judged.
        warmup_cov: Coefficient of variation below which a call is steady.
        warmup_min_seconds: Minimum duration of the warm-up of each call.
        warmup_max_seconds: Maximum duration of the warm-up of each call.
        warmup_max_runs: Maximum number of warm-up runs of each call.
        clock: Monotonic clock in ns.
        on_round: Function called after each round with the completed share (0 to 1), outside the timed part.

    Returns:
        The measurement of each call by name.

    Raises:
        InputError: There are no calls, or the limits contradict each other.
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
    """Return why the samples are unusable, or None if they are valid."""
    if max(samples_ns) > _MOST_NS:
        return "a sample of more than thirty years"
    return None if min(samples_ns) > 0 else "a sample of 0 ns"


def percentile(samples: Sequence[float], p: float) -> float:
    """Return the nearest-rank percentile ``sorted[ceil(p/100 * n) - 1]``, which is always one of the samples.

    Raises:
        InputError: There are no samples, or `p` is not in (0, 100].
    """
    if len(samples) == 0 or not 0 < p <= 100:
        raise InputError(f"no percentile {p} of {len(samples)} samples", where="percentile", hint="use 0 < p <= 100")
    # Multiply before dividing: 0.07 * 100 is 7.000000000000001, which would select the next rank.
    return sorted(samples)[math.ceil(p * len(samples) / 100) - 1]


def cov(samples: Sequence[float]) -> Optional[float]:
    """Return the coefficient of variation, standard deviation (n - 1) over mean; None for fewer than two samples."""
    n = len(samples)
    mean = sum(samples) / n if n else 0.0
    if n < 2 or mean <= 0:
        return None
    return math.sqrt(sum((x - mean) ** 2 for x in samples) / (n - 1)) / mean


def summary(samples_ns: Sequence[int]) -> Summary:
    """Summarize all samples, in ns; p90 requires at least 64 samples and p99 at least 662."""
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

    The interval describes these two calls only: merely loading the same file twice gives medians that differ by about
    0.4 %. Medians are used instead of means because an interrupt is not part of the network's latency.

    The interval is a percentile bootstrap over rounds. A round is drawn with the samples of both calls, which saw the
    same state of the machine, so that shared drift does not widen the interval. Rounds are drawn in blocks of
    ``ceil(n ** (1/3))`` neighbours (circular block bootstrap), because a disturbance lasts for several rounds; drawing
    single rounds would assume more independent samples than there are. On simulated noise of 400 rounds, the interval
    covers the true ratio in 95 % of cases with independent noise, 97 % with bursts, and 100 % with shared drift. If
    each call drifts slowly by itself, the interval is too narrow (76 %; drawing single rounds: 43 %).

    Args:
        samples_a: Times of the first call.
        samples_b: Times of the second call, the reference.
        seed: Seed of the bootstrap.
        paired: Whether the samples come from the same `measure`, in its order. Otherwise they are drawn separately.
        resamples: Number of bootstrap samples.

    Raises:
        InputError: There are no samples, or paired samples differ in number.
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
    # Nearest rank, as in `percentile`.
    rank = math.ceil(len(samples) / 2) - 1
    return float(np.partition(samples, rank)[rank])
