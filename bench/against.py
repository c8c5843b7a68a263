"""Regression guard: records of this run against earlier ones of the same models.

A model is slower when the whole 95 % interval of the ratio of medians, now over then, lies above what is allowed; it is
not when the whole interval lies below. In between nothing is decided, which is said and passes: a guard that fails by
chance is switched off soon. The interval is about the samples of the two runs; what a machine does differently on
another day it cannot know, which is what the allowance is for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from irepdeploy.board.protocol import Ratio, ratio, sample_fault, summary
from irepdeploy.board.runner import shape_text
from irepdeploy.board.system import UNKNOWN
from irepdeploy.console import log
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.runs.record import Record, read

__all__ = ["NEW", "NOT_DECIDED", "OK", "SLOWER", "Verdict", "check_against", "parse_max_slower", "require"]

OK, SLOWER, NOT_DECIDED, NEW = "ok", "slower", "not decided", "not in the record"

# Same records, same verdict.
_SEED = 0
# Of `Record.runner` and `Record.conditions`: what must be equal for two latencies to be compared.
_RUNNER_CONDITIONS = ("device", "threads", "transfers", "tf32", "spinning", "channels_last")
_CPU = ("model", "machine", "logical_cores", "affinity", "quota_cores")

_Key = tuple[str, str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Verdict:
    """One model of this run against the record.

    Args:
        ratio: of medians, now over then; above 1 it has become slower. None for a model that is new.
        limit: of the ratio: 1.05 allows 5 %.
        outcome: OK, SLOWER, NOT_DECIDED or NEW.
        steady: whether both warm-ups had come to rest.
    """

    model: str
    runner: str
    precision: str
    input_shape: Sequence[int]
    median_ms: float
    median_ms_before: float | None
    ratio: Ratio | None
    limit: float
    outcome: str
    steady: bool

    @property
    def line(self) -> str:
        """For people."""
        name = f"{self.model} ({self.runner}, {self.precision}, {shape_text(tuple(self.input_shape))})"
        if self.ratio is None or self.median_ms_before is None:
            return f"{name}: {self.outcome}, {self.median_ms:.3f} ms"
        low, high = self.ratio.low, self.ratio.high
        interval = "too few samples for an interval" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        return (
            f"{name}: {self.outcome}, {self.ratio.value:.3f} x [{interval}], allowed {self.limit:.3f}; "
            f"{self.median_ms_before:.3f} -> {self.median_ms:.3f} ms" + ("" if self.steady else ", unsteady")
        )

    def to_json(self) -> dict[str, Any]:
        """Flat, units in the names."""
        return {
            "model": self.model,
            "runner": self.runner,
            "precision": self.precision,
            "input_shape": list(self.input_shape),
            "outcome": self.outcome,
            "limit": self.limit,
            "ratio": None if self.ratio is None else self.ratio._asdict(),
            "median_ms": self.median_ms,
            "median_ms_before": self.median_ms_before,
            "steady": self.steady,
        }


def parse_max_slower(text: str) -> float:
    """``5%`` as 0.05.

    Raises:
        InputError: no percentage from 0 up.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = math.nan
    if not percent or rest or not 0 <= value < math.inf:
        raise InputError(f"{text!r} is no percentage", where="--max-slower", hint="such as 5%")
    return value


def check_against(
    records: Sequence[Record],
    earlier: str | os.PathLike[str] | Sequence[Record],
    max_slower: float,
    *,
    other_machine: bool = False,
) -> list[Verdict]:
    """A verdict for each record, in their order.

    Models are paired by label, runner, precision and input shape; of several earlier records the last one counts.
    Those of this very run are left out, since it may be written to the same file.

    Args:
        earlier: a file of records, or what was read from it.
        max_slower: 0.05 allows 5 %.
        other_machine: compare although the record is of another CPU or GPU.

    Raises:
        InputError: no such file, or no file of records; none of the models is in it; or one is, but was measured by
            another protocol version, under other conditions or on another machine.
    """
    if isinstance(earlier, str | os.PathLike):
        where, baseline = os.fspath(earlier), read(earlier)
    else:
        where, baseline = "--against", list(earlier)
    runs = {record.created for record in records}
    found = {_key(record): record for record in baseline if record.created not in runs}
    if not any(_key(record) in found for record in records):
        raise InputError(
            "none of these models is in this record: " + ", ".join(map(_name, records)),
            where=where,
            hint=f"it holds {', '.join(map(_name, found.values()))}; label them alike: label=path"
            if found
            else "it holds no other run: measure one first",
        )
    return [_verdict(record, found.get(_key(record)), 1 + max_slower, where, other_machine) for record in records]


def require(verdicts: Sequence[Verdict]) -> None:
    """Log what is not decided, then raise CheckFailed where a model is slower."""
    for verdict in verdicts:
        if verdict.outcome == NOT_DECIDED:
            name = f"{verdict.model} ({verdict.runner})"
            log(f"nothing is decided about {name}: measure for longer with --seconds, on a quieter machine")
    slower = [verdict for verdict in verdicts if verdict.outcome == SLOWER]
    if slower:
        raise CheckFailed(
            f"{len(slower)} of {len(verdicts)} slower than allowed: " + "; ".join(verdict.line for verdict in slower),
            where="--max-slower",
            hint="to see it beside the earlier one, bench both files in one run",
        )


def _verdict(now: Record, before: Record | None, limit: float, where: str, other_machine: bool) -> Verdict:
    compared, outcome = None, NEW
    if before is not None:
        _check_comparable(now, before, where, other_machine)
        compared = ratio(now.samples_ns, before.samples_ns, _SEED, paired=False)
        outcome = _outcome(compared, limit)
    return Verdict(
        model=now.model,
        runner=_runner(now),
        precision=now.precision,
        input_shape=now.input_shape,
        median_ms=summary(now.samples_ns).median_ms,
        median_ms_before=None if before is None else summary(before.samples_ns).median_ms,
        ratio=compared,
        limit=limit,
        outcome=outcome,
        steady=all(bool(record.warmup.get("steady")) for record in (now, before) if record is not None),
    )


def _outcome(compared: Ratio, limit: float) -> str:
    if compared.low is None or compared.high is None:
        return NOT_DECIDED
    if compared.low > limit:
        return SLOWER
    return OK if compared.high <= limit else NOT_DECIDED


def _check_comparable(now: Record, before: Record, where: str, other_machine: bool) -> None:
    place = f"{where}, {_name(before)}"
    fault = sample_fault(before.samples_ns)
    if fault is not None:
        raise InputError(fault, where=place, hint="measure the record again")
    if now.protocol_version != before.protocol_version:
        raise InputError(
            f"measured by protocol version {before.protocol_version}, this run by {now.protocol_version}",
            where=place,
            hint="measure the record again",
        )
    for name in _RUNNER_CONDITIONS:
        then, here = before.runner.get(name), now.runner.get(name)
        if None not in (then, here) and then != here:
            raise InputError(
                f"measured with {name} {then}, this run with {here}", where=place, hint="measure both alike"
            )
    differing = _other_machine(now, before)
    if differing and not other_machine:
        raise InputError(
            f"measured on another machine: {differing}",
            where=place,
            hint="measure the record again here, or add --other-machine",
        )


def _other_machine(now: Record, before: Record) -> str:
    """What differs, or "" where nothing known does."""
    pairs = {name: (_of(before, "cpu", name), _of(now, "cpu", name)) for name in _CPU}
    if now.runner.get("device") not in (None, "cpu"):
        pairs["GPU"] = _gpus(before), _gpus(now)
    return ", ".join(
        f"{name} {then}, here {here}"
        for name, (then, here) in pairs.items()
        if then != here and UNKNOWN not in (then, here) and None not in (then, here)
    )


def _of(record: Record, part: str, name: str) -> Any:
    block = record.system.get(part)
    return block.get(name) if isinstance(block, dict) else None


def _gpus(record: Record) -> Any:
    gpus = record.system.get("gpu")
    return [gpu.get("name") for gpu in gpus] if isinstance(gpus, list) else gpus


def _key(record: Record) -> _Key:
    return record.model, _runner(record), record.precision, tuple(record.input_shape)


def _runner(record: Record) -> str:
    return str(record.runner.get("runner", UNKNOWN))


def _name(record: Record) -> str:
    return f"{record.model} ({_runner(record)}, {record.precision}, {shape_text(tuple(record.input_shape))})"
