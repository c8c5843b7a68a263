"""Record: one measurement, raw samples with the system and the conditions they were taken under.

Records are appended to a file of JSON lines and never changed. What a table shows is derived from the raw samples by
`irepdeploy.runtime.protocol` when it is shown, so that a new metric needs no new run.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.files import append_line, read_lines

__all__ = ["SCHEMA_VERSION", "Record", "append", "read"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Record:
    """One network measured on one runner.

    Fields:
        suite, scenario: what the measurement is part of, and how queries arrive ("single-stream").
        model: its label. `source`: what it was made from (a checkpoint's state, "onnx", "network, random weights").
        artefact_sha256: of the file, None for a network that comes from no file.
        runner: `Runner.describe()`.
        batch, input_shape: of the first input; the shape holds the batch.
        samples_ns: raw times in the order they were taken; of records with equal `created` the i-th are from one round.
        warmup: runs, steady, cov. `conditions`: seed, order, limits, labels it was interleaved with.
        created: UTC, ISO 8601, the same for all records of one run.
    """

    suite: str
    scenario: str
    model: str
    source: str
    artefact_sha256: str | None
    runner: dict[str, Any]
    precision: str
    batch: int
    input_shape: list[int]
    samples_ns: list[int]
    warmup: dict[str, Any]
    protocol_version: int
    system: dict[str, Any]
    conditions: dict[str, Any]
    argv: list[str]
    created: str
    schema: int = field(default=SCHEMA_VERSION)


# The JSON types of each field; bool is an int to Python and is never one here.
_TYPES: dict[str, tuple[type, ...]] = {
    "suite": (str,),
    "scenario": (str,),
    "model": (str,),
    "source": (str,),
    "artefact_sha256": (str, type(None)),
    "runner": (dict,),
    "precision": (str,),
    "batch": (int,),
    "input_shape": (list,),
    "samples_ns": (list,),
    "warmup": (dict,),
    "protocol_version": (int,),
    "system": (dict,),
    "conditions": (dict,),
    "argv": (list,),
    "created": (str,),
    "schema": (int,),
}


def append(path: str | os.PathLike[str], record: Record) -> None:
    """Append `record` as one line, flushed to the disk. A line that a killed writer left torn is cut off first.

    Raises:
        OutputError, RunError: the file cannot be written, or the disk is full.
    """
    append_line(path, asdict(record))


def read(path: str | os.PathLike[str]) -> list[Record]:
    """All records of a file, in order. A torn last line is left out, with a log line.

    Raises:
        InputError: no such file, or a line in it is no record, or one of an unknown schema version; names the line.
    """
    lines = read_lines(path, "file of records", of="record")
    return [_record(value, f"{os.fspath(path)}, line {number}") for number, value in lines]


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict) or "schema" not in value:
        raise InputError("not a record: no schema version", where=where, hint="is this a records.jsonl?")
    if value["schema"] != SCHEMA_VERSION or isinstance(value["schema"], bool):
        raise InputError(
            f"schema version {value['schema']!r}, this irepdeploy reads {SCHEMA_VERSION}",
            where=where,
            hint="read it with the irepdeploy that wrote it, or measure again",
        )
    names = {item.name for item in fields(Record)}
    if set(value) != names:
        wrong = sorted(names - set(value)) + sorted(set(value) - names)
        raise InputError(f"not a record: fields missing or unknown: {', '.join(wrong)}", where=where)
    for name, types in _TYPES.items():
        if not isinstance(value[name], types) or isinstance(value[name], bool):
            raise InputError(f"not a record: {name} is a {type(value[name]).__name__}", where=where)
    for name in ("samples_ns", "input_shape"):
        if not value[name] or not all(type(item) is int and item >= 0 for item in value[name]):
            raise InputError(f"not a record: {name} is not a list of whole numbers", where=where)
    return Record(**value)
