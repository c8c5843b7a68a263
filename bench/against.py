"""Regression guard: compare records of this run with earlier ones of the same models.

A model is slower if the whole 95 % interval of the ratio of medians, now to then, lies above the allowed ratio, and not
slower if it lies below. Otherwise the guard reports that it is undecided and passes, since a guard that fails by chance
is soon switched off. The interval only covers the samples of the two runs; the allowance covers day-to-day variation.
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
from irepdeploy.runs.record import Record, read_numbered

__all__ = ["NEW", "NOT_DECIDED", "OK", "SLOWER", "Guard", "Verdict", "parse_max_slower", "require"]

OK, SLOWER, NOT_DECIDED, NEW = "ok", "slower", "not decided", "not in the record"

# A fixed seed, so that the same records give the same verdict.
_SEED = 0
_WHERE = "--against"
# Entries of `Record.runner` that must be equal for two latencies to be comparable.
_RUNNER_CONDITIONS = ("device", "threads", "transfers", "tf32", "spinning", "channels_last")
_CPU = ("model", "machine", "logical_cores", "affinity", "quota_cores")

_Key = tuple[str, str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one model of this run.

    Attributes:
        ratio: Ratio of medians, now to then; above 1, the model has become slower. None for a new model.
        limit: Largest allowed ratio; 1.05 allows 5 %.
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
        """The verdict as one line of text."""
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
        """Return a flat JSON object with units in its names."""
        compared = None if self.ratio is None else self.ratio._asdict()
        return {**vars(self), "input_shape": list(self.input_shape), "ratio": compared}


def parse_max_slower(text: str) -> float:
    """Parse a percentage; ``5%`` gives 0.05."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = math.nan
    if not percent or rest or not 0 <= value < math.inf:
        raise InputError(f"expected a percentage such as 5%, got {text!r}", where="--max-slower")
    return value


@dataclass(frozen=True)
class Guard:
    """Compare the records of a run with earlier ones.

    Models are paired by label, runner, precision and input shape; among several earlier records the last one counts. An
    unreadable line of the file is skipped, unless it may be the last record of a model, which is an error.

    Attributes:
        earlier: Earlier records. Those of the run itself are ignored, since it may be written to the same file.
        max_slower: Allowed slowdown; 0.05 allows 5 %.
        other_machine: Whether to compare even if the records are from another CPU or GPU.
        before_a_fault: Number of earlier records that precede an unreadable line.
    """

    earlier: Sequence[Record]
    max_slower: float
    other_machine: bool = False
    before_a_fault: int | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], max_slower: float, other_machine: bool = False) -> Guard:
        """Read the earlier records from a file."""
        lines = read_numbered(path)
        last = max(lines.faults, default=None)
        before = None if last is None else sum(number < last for number in lines.values)
        return cls([*lines.values.values()], max_slower, other_machine, before)

    def check(self, records: Sequence[Record]) -> list[Verdict]:
        """Return a verdict on each record, in the same order."""
        runs = {record.created for record in records}
        found = {_key(record): record for record in self.earlier if record.created not in runs}
        if not any(_key(record) in found for record in records):
            raise InputError(
                "none of these models is in this record: " + ", ".join(map(_name, records)),
                where=_WHERE,
                hint=f"it holds {', '.join(map(_name, found.values()))}; use the same labels: label=path"
                if found
                else "it holds no other run: measure one first",
            )
        if self.before_a_fault is not None:
            later = {_key(record) for record in self.earlier[self.before_a_fault :]}
            for record in records:
                if _key(record) not in later:
                    raise InputError(
                        f"an unreadable line may be the last record of {_name(record)}",
                        where=_WHERE,
                        hint="delete that line, or measure the record again",
                    )
        return [self._verdict(record, found.get(_key(record))) for record in records]

    def _verdict(self, now: Record, before: Record | None) -> Verdict:
        compared, outcome, limit = None, NEW, 1 + self.max_slower
        if before is not None:
            _check_comparable(now, before, self.other_machine)
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


def require(verdicts: Sequence[Verdict]) -> None:
    """Log undecided verdicts, and raise CheckFailed if a model is slower."""
    for verdict in verdicts:
        if verdict.outcome == NOT_DECIDED:
            name = f"{verdict.model} ({verdict.runner})"
            log(f"no decision about {name}: measure longer with --seconds, or on a quieter machine")
    slower = [verdict for verdict in verdicts if verdict.outcome == SLOWER]
    if slower:
        raise CheckFailed(
            f"{len(slower)} of {len(verdicts)} slower than allowed: " + "; ".join(verdict.line for verdict in slower),
            where="--max-slower",
            hint="to compare it with the earlier one directly, bench both files in one run",
        )


def _outcome(compared: Ratio, limit: float) -> str:
    if compared.low is None or compared.high is None:
        return NOT_DECIDED
    if compared.low > limit:
        return SLOWER
    return OK if compared.high <= limit else NOT_DECIDED


def _check_comparable(now: Record, before: Record, other_machine: bool) -> None:
    place = f"{_WHERE}, {_name(before)}"
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
                f"measured with {name} {then}, this run with {here}",
                where=place,
                hint="measure both with the same settings",
            )
    differing = _other_machine(now, before)
    if differing and not other_machine:
        raise InputError(
            f"measured on another machine: {differing}",
            where=place,
            hint="measure the record again here, or add --other-machine",
        )


def _other_machine(now: Record, before: Record) -> str:
    """Return the known differences between the machines, or "" if there are none."""
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
