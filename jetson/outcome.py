"""Outcome of a bench on a board: records, table rows and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irepdeploy.board.protocol import summary
from irepdeploy.console import command_line
from irepdeploy.errors import CheckFailed, InputError, IrepdeployError, RunError, one_line
from irepdeploy.runs.record import Record

from .agent_failure import tree_error
from .board_record import power_of, record_of, trtexec_record_of
from .models import Variant

__all__ = ["COLUMNS", "Outcome", "cells", "outcome_of"]

# Heading, key in a row and format of each number.
_NUMBERS = (
    ("median ms", "median_ms", ".3f"),
    ("p90 ms", "p90_ms", ".3f"),
    ("device ms", "device_median_ms", ".3f"),
    ("spread", "cov", ".1%"),
    ("error", "max_rel_error", ".1e"),
    ("module mW", "module_mw", ".0f"),
    ("mJ each", "energy_mj_per_inference", ".2f"),
)
COLUMNS = ["model", "precision", "runner", *(head for head, _, _ in _NUMBERS)]


@dataclass
class Outcome:
    """Outcome of one board.

    Attributes:
        rows: One flat row per measurement, with units in the names.
        job: Job that was kept on the board, if any.
        files: Names of the files in the job, by model.
        error: Reason why the board has no results or was left with changed settings.
    """

    host: str
    records: list[Record] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, IrepdeployError] = field(default_factory=dict)
    engines: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    job: str | None = None
    files: dict[str, list[str]] = field(default_factory=dict)
    error: IrepdeployError | None = None

    @property
    def errors(self) -> list[IrepdeployError]:
        """All errors."""
        return [*([self.error] if self.error else []), *self.failures.values()]

    @property
    def title(self) -> str:
        """Title of the table: the board and the conditions."""
        parts = [self.host]
        if self.records:
            system, first = self.records[0].system, self.records[0]
            parts += [str(system[key]) for key in ("board", "power_mode") if system.get(key)]
            parts.append(f"input {'x'.join(map(str, first.input_shape))}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object, without the raw samples."""
        return {
            "host": self.host,
            "error": None if self.error is None else self.error.line,
            "rows": self.rows,
            "failures": {label: error.line for label, error in self.failures.items()},
            "engines": [str(path) for path in self.engines],
            "notes": self.notes,
        }


def outcome_of(host: str, value: dict[str, Any], variants: Sequence[Variant], groups: dict[str, Any]) -> Outcome:
    """Read a board's answer."""
    by_label = {variant.label: variant for variant in variants}
    try:
        outcome = Outcome(host, job=value.get("job"))
        outcome.notes = [f"set there: {one_line(str(text))}" for text in value["switched"]]
        outcome.notes += [f"restored: {one_line(str(text))}" for text in value["restored"]]
        outcome.error = _not_restored(host, value["restored"])
        throttled = (value.get("system_after") or {}).get("throttled")
        if throttled:
            outcome.notes.append(f"THROTTLED: {one_line(str(throttled))}")
        for model in value["models"]:
            _add(outcome, value, model, by_label[model["label"]], groups)
        return outcome
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"cannot understand the agent's answer: {type(error).__name__} {one_line(str(error))}", where=host
        ) from error


def cells(row: dict[str, Any]) -> list[object]:
    """Format a row as cells in the order of `COLUMNS`."""
    texts = {key: "-" if row.get(key) is None else format(row[key], form) for _, key, form in _NUMBERS}
    texts["cov"] += "" if row.get("steady", True) else " unsteady"
    return [row["model"], row["precision"], row["runner"], *texts.values()]


def _add(
    outcome: Outcome, value: dict[str, Any], model: dict[str, Any], variant: Variant, groups: dict[str, Any]
) -> None:
    label, gate = variant.label, model.get("gate")
    if not model["ok"]:
        outcome.failures[label] = _failure(outcome.host, label, model, gate)
        return
    engine = model.get("engine") or {}
    outcome.files[label] = list(engine.get("files") or [])
    row = {
        "model": label,
        "precision": variant.precision,
        "max_rel_error": None if gate is None else _finite(gate["max_rel_error"]),
        "engine_bytes": engine.get("size_bytes"),
        "build_seconds": engine.get("seconds"),
    }
    samples = model.get("samples_ns") or []
    power = power_of(model.get("power") or {})
    name = str(model["runner"]["runner"]) if model.get("runner") else "trt"
    if samples:
        record = record_of(outcome.host, value, model, variant, groups.get(label), power)
        outcome.records.append(record)
        outcome.rows.append({**row, **_times(record), "steady": bool(record.warmup["steady"]), **_energy(power)})
    other = model.get("trtexec")
    if other and other["latency_ns"]:
        record = trtexec_record_of(outcome.host, value, model, variant, groups.get(label))
        outcome.records.append(record)
        outcome.rows.append({**row, **_times(record)})
    if not samples and not other:
        outcome.rows.append({**row, "runner": name})


def _times(record: Record) -> dict[str, Any]:
    device = summary(record.device_samples_ns).median_ms if record.device_samples_ns else None
    return {"runner": record.runner["runner"], **summary(record.samples_ns)._asdict(), "device_median_ms": device}


def _energy(power: dict[str, Any]) -> dict[str, Any]:
    return {key: power.get(key) for key in ("module_mw", "energy_mj_per_inference")}


def _failure(host: str, label: str, model: dict[str, Any], gate: dict[str, Any] | None) -> IrepdeployError:
    error, where = model.get("error") or {}, f"{host}, {label}"
    reason = one_line(str(error.get("what") or (gate or {}).get("reason") or "no reason given"))
    if gate is not None and not gate["ok"]:
        return CheckFailed(reason, where=where)
    return tree_error(error, where) or RunError(reason, where=where)


def _not_restored(host: str, restored: Sequence[Any]) -> IrepdeployError | None:
    failed = [one_line(str(text)) for text in restored if str(text).startswith("FAILED")]
    if not failed:
        return None
    return RunError(f"not restored: {'; '.join(failed)}", where=host, hint=command_line("jetson", "restore", host))


def _finite(number: Any) -> float | None:
    # Our JSON stores numbers that are not finite as text.
    return float(number) if isinstance(number, int | float) else None
