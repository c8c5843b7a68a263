"""Lines of JSON-lines files that a report shows: records, cells of a reproduction, and lines of other suites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.files import canonical_json, sha256
from irepdeploy.parsing.json_lines import read_lines
from irepdeploy.parsing.json_text import JsonError, unsealed
from irepdeploy.runs.record import Record, record_of
from irepdeploy.runs.reproduction import ReproducedRecord, reproduced_of

__all__ = ["Measurement", "digest_of", "measurements_in"]

Measurement = Record | ReproducedRecord | dict[str, Any]


def measurements_in(path: Path, note: Callable[[str], object]) -> list[Measurement]:
    """Return the measurements in a file. Lines of other kinds are skipped; unreadable lines are skipped with a note.

    Raises:
        InputError: The file, or each of its lines, cannot be read.
    """
    lines = read_lines(path, _measurement_of, "file of records", "record", note=note)
    return [each for each in lines.values.values() if each is not None]


def digest_of(measurement: Measurement) -> str:
    """Return a digest that identifies a measurement, also in a copy of its file or merged into another file."""
    if isinstance(measurement, ReproducedRecord):
        return sha256(canonical_json(measurement.model_dump(mode="json")))
    return sha256(canonical_json(asdict(measurement) if isinstance(measurement, Record) else measurement))


def _measurement_of(value: object, where: str) -> Measurement | None:
    if not isinstance(value, dict):
        return None
    if "schema" in value or {"runner", "scenario", "samples_ns"} <= value.keys():
        return record_of(value, where)
    if {"protocol", "cell", "stage"} <= value.keys():
        return reproduced_of(value, where)
    try:
        line: dict[str, Any] = unsealed(value)
    except JsonError as error:
        raise InputError(f"not a record: {error}", where=where) from None
    return line if isinstance(line.get("suite", line.get("benchmark")), str) else None
