from __future__ import annotations

import gc
import random
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.board import protocol
from irepdeploy.board.protocol import Measurement, cov, measure, percentile, ratio, summary
from irepdeploy.errors import InputError

MS = 1_000_000


class FakeMachine:
    """A clock that only advances by calls, and a log of the calls."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[str] = []

    def clock(self) -> int:
        return self.now

    def call(self, name: str, *times: int):
        """A call whose i-th run takes times[i] nanoseconds, the last one for ever."""
        runs = iter(times)

        def run() -> None:
            self.log.append(name)
            self.now += next(runs, times[-1])

        return run


def quick(machine: FakeMachine, calls, **settings) -> dict[str, Measurement]:
    settings = {"seed": 0, "min_samples": 8, "min_seconds": 0.0, "warmup_min_seconds": 0.0, **settings}
    # Garbage collection takes long once torch is imported.
    with mock.patch.object(gc, "collect"):
        return measure(calls, clock=machine.clock, **settings)


def test_samples_are_the_times_the_clock_gave() -> None:
    machine = FakeMachine()
    measured = quick(machine, {"a": machine.call("a", 2 * MS), "b": machine.call("b", 3 * MS)})
    assert measured["a"] == Measurement("a", [2 * MS] * 8, 16, True, 0.0)
    assert measured["b"].samples_ns == [3 * MS] * 8


def test_every_round_holds_each_call_once_in_a_shuffled_order() -> None:
    machine = FakeMachine()
    names = ["a", "b", "c"]
    measured = quick(machine, {name: machine.call(name, MS) for name in names}, min_samples=30)
    timed = machine.log[sum(each.warmup_runs for each in measured.values()) :]
    rounds = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert len(rounds) == 30
    assert all(sorted(each) == names for each in rounds)
    assert len(set(rounds)) > 3


def test_order_follows_the_seed() -> None:
    def log(seed: int) -> list[str]:
        machine = FakeMachine()
        quick(machine, {name: machine.call(name, MS) for name in "abc"}, seed=seed)
        return machine.log

    assert log(1) == log(1)
    assert log(1) != log(2)


def test_warm_up_ends_when_the_window_is_steady() -> None:
    machine = FakeMachine()
    noisy = [MS * (1 + i % 2) for i in range(10)]
    measured = quick(machine, {"a": machine.call("a", *noisy, MS)}, warmup_window=4)
    # Ten noisy runs, then the window has to fill with steady ones: the last noisy one takes 2 ms.
    assert measured["a"].warmup_runs == 14
    assert measured["a"].steady
    assert measured["a"].warmup_cov == 0.0
    assert measured["a"].samples_ns == [MS] * 8


@pytest.mark.parametrize(
    ("limits", "runs"),
    [({"warmup_max_runs": 30}, 30), ({"warmup_max_seconds": 0.030}, 20), ({"warmup_max_runs": 1}, 1)],
)
def test_warm_up_that_never_gets_steady_ends_at_its_limit_and_says_so(limits: dict[str, float], runs: int) -> None:
    machine = FakeMachine()
    measured = quick(machine, {"a": machine.call("a", *([MS, 2 * MS] * 100))}, **limits)["a"]
    assert (measured.warmup_runs, measured.steady) == (runs, False)
    if runs == 1:
        assert measured.warmup_cov is None
    else:
        assert measured.warmup_cov == pytest.approx(1 / 3, rel=0.05)


def test_limits_of_time_and_samples() -> None:
    machine = FakeMachine()
    assert quick(machine, {"a": machine.call("a", MS)}, warmup_min_seconds=0.1)["a"].warmup_runs == 100
    measured = quick(machine, {"a": machine.call("a", MS), "b": machine.call("b", 3 * MS)}, min_seconds=0.1)
    # 4 ms a round, 0.2 s for the two.
    assert len(measured["a"].samples_ns) == len(measured["b"].samples_ns) == 50
    measured = quick(machine, {"a": machine.call("a", 10)}, min_seconds=1.0, max_samples=20)
    assert len(measured["a"].samples_ns) == 20


def test_outliers_are_kept_and_the_share_that_is_done_is_told_after_every_round() -> None:
    machine, shares = FakeMachine(), []
    times = [MS] * 16 + [MS, 900 * MS, MS]
    measured = quick(machine, {"a": machine.call("a", *times)}, on_round=shares.append)
    assert max(measured["a"].samples_ns) == 900 * MS
    assert shares == [i / 8 for i in range(1, 9)]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_collector_is_off_meanwhile_and_restored(enabled: bool, fails: bool) -> None:
    machine, seen = FakeMachine(), []

    def call() -> None:
        machine.now += MS
        seen.append(gc.isenabled())
        if fails and len(seen) == 20:
            raise ZeroDivisionError

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        if fails:
            with pytest.raises(ZeroDivisionError):
                quick(machine, {"a": call})
        else:
            quick(machine, {"a": call})
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert len(seen) >= 20
    assert not any(seen)


@pytest.mark.parametrize(
    "settings", [{"min_samples": 0}, {"min_samples": 9, "max_samples": 8}, {"min_seconds": -1.0}, {"warmup_window": 1}]
)
def test_refuses_limits_that_make_no_sense(settings: dict[str, float]) -> None:
    machine = FakeMachine()
    with pytest.raises(InputError):
        quick(machine, {"a": machine.call("a", MS)}, **settings)
    assert machine.log == []


def test_refuses_to_measure_nothing() -> None:
    with pytest.raises(InputError, match="nothing to measure"):
        measure({}, seed=0)


@pytest.mark.parametrize(
    ("p", "value"), [(5, 15), (30, 20), (40, 20), (50, 35), (100, 50), (20, 15), (20.1, 20), (0.001, 15)]
)
def test_nearest_rank_by_hand(p: float, value: int) -> None:
    assert percentile([35, 20, 50, 15, 40], p) == value


def test_nearest_rank_does_not_trip_over_binary_fractions() -> None:
    # ceil(0.07 * 100) is 8, since 0.07 * 100 is 7.000000000000001.
    assert percentile(range(1, 101), 7) == 7
    assert [percentile(range(1, 101), p) for p in range(1, 101)] == list(range(1, 101))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=50), st.integers(1, 100))
def test_percentile_is_the_least_sample_that_covers_p_percent(samples: list[int], p: int) -> None:
    value = percentile(samples, p)
    assert value in samples
    assert 100 * sum(x <= value for x in samples) >= p * len(samples)
    assert 100 * sum(x < value for x in samples) < p * len(samples)


@pytest.mark.parametrize(("samples", "p"), [([], 50), ([1], 0), ([1], 101)])
def test_refuses_percentiles_of_nothing_and_out_of_range(samples: list[int], p: float) -> None:
    with pytest.raises(InputError):
        percentile(samples, p)


def test_summary_by_hand() -> None:
    found = summary([4 * MS, 1 * MS, 3 * MS, 2 * MS])
    assert (found.n, found.median_ms, found.min_ms, found.mean_ms) == (4, 2.0, 1.0, 2.5)
    assert found.cov == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2.5)
    assert cov([]) is None is cov([5])


@pytest.mark.parametrize(
    ("n", "p90", "p99"), [(63, None, None), (64, 58.0, None), (661, 595.0, None), (662, 596.0, 656.0)]
)
def test_percentiles_are_claimed_only_from_enough_samples(n: int, p90: float | None, p99: float | None) -> None:
    found = summary([MS * i for i in range(1, n + 1)])
    assert (found.p90_ms, found.p99_ms) == (p90, p99)


def drifting(rounds: int, factor: float, seed: int) -> tuple[list[int], list[int]]:
    """Two calls of one machine that slows down by half and has noise of its own for each: b takes 1 ms, a `factor`."""
    rng = random.Random(seed)
    drift = [1 + 0.5 * i / rounds for i in range(rounds)]
    a = [int(MS * factor * d * rng.lognormvariate(0, 0.03)) for d in drift]
    b = [int(MS * d * rng.lognormvariate(0, 0.03)) for d in drift]
    return a, b


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    inside = 0
    for trial in range(40):
        found = ratio(*drifting(80, 1.3, seed=trial), seed=trial, resamples=200)
        assert found.low is not None and found.high is not None
        assert found.low <= found.value <= found.high
        inside += found.low <= 1.3 <= found.high
    assert inside >= 33


def test_a_difference_of_ten_percent_is_seen_through_the_drift() -> None:
    a, b = drifting(300, 1.1, seed=3)
    paired, unpaired = ratio(a, b, seed=0, resamples=500), ratio(a, b, seed=0, paired=False, resamples=500)
    assert paired.low > 1.0
    # Rounds are what they share: drawn separately, the drifts of the two would not cancel.
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 2


def test_ratio_follows_its_seed() -> None:
    a, b = drifting(50, 1.1, seed=1)
    assert ratio(a, b, seed=7) == ratio(a, b, seed=7)
    assert len({ratio(a, b, seed=seed, resamples=40) for seed in range(5)}) > 1


def test_ratio_of_constant_samples_and_no_interval_from_too_few_rounds() -> None:
    assert ratio([2 * MS] * 10, [4 * MS] * 10, seed=0) == (0.5, 0.5, 0.5)
    assert ratio([2] * 5, [1] * 5, seed=0) == (2.0, None, None)
    assert ratio([2] * 6, [1] * 6, seed=0) == (2.0, 2.0, 2.0)


def test_unpaired_samples_may_differ_in_number_and_paired_ones_may_not() -> None:
    assert ratio([2] * 9, [1] * 7, seed=0, paired=False) == (2.0, 2.0, 2.0)
    with pytest.raises(InputError, match="cannot be paired"):
        ratio([2] * 9, [1] * 7, seed=0)


def test_medians_of_the_bootstrap_are_nearest_rank_too() -> None:
    for samples in ([5, 1, 3], [4, 1, 3, 2], [7]):
        assert protocol._median(np.array(samples)) == percentile(samples, 50)


def test_blocks_are_neighbours_and_stay_in_range() -> None:
    drawn = protocol._blocks(np.random.default_rng(0), 64)
    assert drawn.shape == (64,)
    assert drawn.min() >= 0 and drawn.max() < 64
    steps = np.diff(drawn) % 64
    assert (steps == 1).mean() > 0.7


def test_the_device_is_asked_after_each_timed_run_and_not_timed() -> None:
    now = 0
    read: list[int] = []

    def clock() -> int:
        return now

    class Timed:
        def __call__(self) -> None:
            nonlocal now
            now += 1_000

        def device_ns(self) -> int:
            nonlocal now
            now += 50_000
            read.append(now)
            return 700 + len(read)

    def plain() -> None:
        nonlocal now
        now += 10

    found = measure(
        {"gpu": Timed(), "cpu": plain}, seed=0, min_samples=5, max_samples=5, min_seconds=0, clock=clock,
        warmup_max_runs=3, warmup_min_seconds=0,
    )  # fmt: skip
    assert found["gpu"].samples_ns == [1_000] * 5
    assert found["gpu"].device_samples_ns == [701, 702, 703, 704, 705]
    assert found["cpu"].samples_ns == [10] * 5
    assert found["cpu"].device_samples_ns == []
