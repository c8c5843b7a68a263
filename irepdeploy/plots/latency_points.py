"""Points of latency and accuracy from records, by device (Fig. 1)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irepdeploy.board.protocol import percentile, sample_fault
from irepdeploy.board.system import UNKNOWN
from irepdeploy.errors import InputError
from irepdeploy.runs import pareto_front as pareto
from irepdeploy.runs.record import Record, read

__all__ = ["LatencyPoint", "by_device", "latency_points", "pareto_front", "read_records"]

_NS_A_MS = 1e6
_NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class LatencyPoint:
    """One network on one device. Only points with equal conditions are comparable.

    `latency_ms` is the median; `low_ms` and `high_ms` are the 10th and 90th percentiles. `top1` is the accuracy in
    percent, or None if the record does not contain it; `source` is its origin.
    """

    label: str
    conditions: str
    latency_ms: float
    low_ms: float
    high_ms: float
    top1: float | None
    source: str
    family: str = ""

    @property
    def place(self) -> tuple[float, float]:
        """The latency and accuracy of a point that has both."""
        assert self.top1 is not None
        return self.latency_ms, self.top1

    @property
    def measured(self) -> bool:
        """Whether the accuracy was measured and not taken from a paper."""
        return self.top1 is not None and _NOT_MEASURED not in self.source


def read_records(paths: Sequence[str | os.PathLike[str]]) -> list[Record]:
    """Read the records in files, or in the records.jsonl of folders.

    Raises:
        InputError: A file cannot be read, or there are no records.
    """
    found = []
    for path in map(Path, paths):
        found += read(path / "records.jsonl" if path.is_dir() else path)
    if not found:
        raise InputError("no records in it", where=", ".join(map(str, paths)), hint="`irepdeploy bench` writes some")
    return found


def latency_points(records: Sequence[Record], top1: Mapping[str, float] | None = None) -> list[LatencyPoint]:
    """Return a point for each name of each record's network; of equal names and conditions, only the latest.

    Args:
        records: Records of measurements.
        top1: Accuracies in percent by name, which take precedence over recorded ones.

    Raises:
        InputError: A record is unusable, or a name in `top1` has no record.
    """
    given = dict(top1 or {})
    latest: dict[tuple[str, str], tuple[str, LatencyPoint]] = {}
    for record in records:
        fault = sample_fault(record.samples_ns)
        if fault is not None:
            raise InputError(fault, where=f"record of {record.model}", hint="measure it again")
        median, low, high = (percentile(record.samples_ns, share) / _NS_A_MS for share in (50, 10, 90))
        for name, figures in _listed(record):
            if name in given:
                figures = {**figures, "top1": given[name], "top1_source": "given on the command line"}
            family = figures.get("family")
            key = name, _conditions(record)
            kind = family if isinstance(family, str) else ""
            point = LatencyPoint(*key, median, low, high, *_accuracy(name, figures), kind)
            if key not in latest or record.created >= latest[key][0]:
                latest[key] = record.created, point
    names = list(dict.fromkeys(name for name, _ in latest))
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"no record of {', '.join(unknown)}", where="--top1", hint=f"there are {', '.join(names)}")
    return [point for _, point in latest.values()]


def by_device(points: Sequence[LatencyPoint]) -> dict[str, list[LatencyPoint]]:
    """Group points by their conditions, fastest first."""
    groups: dict[str, list[LatencyPoint]] = {}
    for point in sorted(points, key=lambda point: point.latency_ms):
        groups.setdefault(point.conditions, []).append(point)
    return dict(sorted(groups.items()))


def pareto_front(points: Sequence[LatencyPoint]) -> list[LatencyPoint]:
    """Return the points that no other point dominates in latency and accuracy, fastest first."""
    known = [point for point in points if point.top1 is not None]
    return [known[index] for index in pareto.pareto_front([point.place for point in known])]


def _listed(record: Record) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the names of a record's network with the figures of each, because identical graphs are measured once."""
    facts = record.facts
    rows = facts.get("rows")
    if isinstance(rows, list) and rows and all(isinstance(row, Mapping) and "name" in row for row in rows):
        return [(str(row["name"]), row) for row in rows]
    return [(record.model, facts)]


def _accuracy(name: str, figures: Mapping[str, Any]) -> tuple[float | None, str]:
    value = figures.get("top1")
    if value is None:
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise InputError(f"expected an accuracy in percent, got {value!r}", where=name, hint="top1 is from 0 to 100")
    return float(value), str(figures.get("top1_source") or UNKNOWN)


def _conditions(record: Record) -> str:
    system, runner = record.system, record.runner
    words = " ".join(str(runner.get(key, "")) for key in ("device", "provider", "runner")).lower()
    on_gpu = any(word in words for word in ("cuda", "gpu", "trt", "tensorrt"))
    parts = [_device(system, on_gpu), _text(system.get("power_mode")), _text(runner.get("runner")), record.precision]
    threads = runner.get("threads")
    if not on_gpu and type(threads) is int:
        parts.append(f"{threads} thread{'s' * (threads != 1)}")
    if record.conditions.get("tf32") == "on":
        parts.append("TF32")
    parts.append(f"batch {record.batch}")
    if record.scenario != "single-stream":
        parts.append(record.scenario)
    return ", ".join(filter(None, parts))


def _device(system: Mapping[str, Any], on_gpu: bool) -> str:
    """Return the name of the board, GPU or CPU, as far as it is recorded."""
    board = _text(system.get("board") or system.get("model"))
    gpus, cpu = system.get("gpu"), system.get("cpu")
    names = [_text(gpu.get("name")) for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list) else []
    gpu = " + ".join(dict.fromkeys(filter(None, names))) if on_gpu else ""
    return board or gpu or (_text(cpu.get("model")) if isinstance(cpu, Mapping) else "") or "unknown device"


def _text(value: object) -> str:
    return value if isinstance(value, str) and value not in (UNKNOWN, "none") else ""
