"""Record: one measurement, raw samples with the system and the conditions under which they were taken.

Records are appended to a file of JSON lines and never changed. What a table shows is derived from the raw samples by
`irepdeploy.board.protocol` when it is shown, so that a new metric needs no new run.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, StrictInt

from irepdeploy.board.protocol import Ratio, ratio
from irepdeploy.errors import InputError
from irepdeploy.files import append_line, read_lines
from irepdeploy.runs.schema import validated

__all__ = ["SCHEMA_VERSION", "Record", "append", "read", "record_of"]

SCHEMA_VERSION = 2

_Count = Annotated[int, Field(ge=0, strict=True)]


@dataclass(frozen=True)
class Record:
    """One network measured on one runner.

    Attributes:
        suite: The suite that the measurement is part of; `scenario`: how queries arrive ("single-stream").
        model: Its label; `source`: its origin (a checkpoint's state, "onnx", "network, random weights").
        artefact_sha256: Digest of the file; None for a network without a file.
        runner: `Runner.describe()`, under its name on the command line.
        batch: Images per inference; `input_shape`: shape of the first input, including the batch.
        samples_ns: Raw times by the host's clock, in order of measurement; the i-th samples of records with equal
            `created` are from one round.
        device_samples_ns: The same runs by the device's own clock; empty without one.
        warmup: runs, steady, cov. `conditions`: seed, order, limits, labels of interleaved models.
        system, system_after: the machine before the measurement, and its changeable state afterwards; {} if unknown.
        power: power and energy of the measurement: mean_mw by rail, energy_mj_per_inference; {} without a meter.
        facts: known facts about the model besides its latency: net, params, macs, structure (digest), names (all names
            in tables), top1 (percent) and top1_source, paper_ms, notes.
        created: UTC, ISO 8601, the same for all records of one run.
    """

    # A dataclass that is validated when it is read: records are changed by `dataclasses.replace`.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    suite: str
    scenario: str
    model: str
    source: str
    artefact_sha256: str | None
    runner: dict[str, Any]
    precision: str
    batch: StrictInt
    input_shape: Annotated[list[_Count], Field(min_length=1)]
    samples_ns: Annotated[list[_Count], Field(min_length=1)]
    warmup: dict[str, Any]
    protocol_version: StrictInt
    system: dict[str, Any]
    conditions: dict[str, Any]
    argv: list[str]
    created: str
    facts: dict[str, Any] = field(default_factory=dict)
    device_samples_ns: list[_Count] = field(default_factory=list)
    system_after: dict[str, Any] = field(default_factory=dict)
    power: dict[str, Any] = field(default_factory=dict)
    schema: int = field(default=SCHEMA_VERSION)

    def is_paired_with(self, other: Record) -> bool:
        """Return whether the i-th samples of both come from one round: only those of one run do."""
        return self.created == other.created and len(self.samples_ns) == len(other.samples_ns)

    def ratio_to(self, reference: Record) -> Ratio:
        """Return the ratio of medians to the reference; the same records always give the same interval."""
        return ratio(self.samples_ns, reference.samples_ns, seed=0, paired=self.is_paired_with(reference))


# Fields that each schema version added: records of older versions are read with these empty.
_SINCE: dict[int, tuple[str, ...]] = {2: ("facts", "device_samples_ns", "system_after", "power")}


def append(path: str | os.PathLike[str], record: Record) -> None:
    """Append `record` as one line, flushed to the disk. A line that a killed writer left torn is removed first."""
    append_line(path, asdict(record))


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Read all records of a file, in order. A torn last line is dropped, with a log line."""
    lines = read_lines(path, "file of records", of="record")
    return [record_of(value, f"{os.fspath(path)}, line {number}") for number, value in lines]


def record_of(value: object, where: str) -> Record:
    """Return the record in a JSON line, also of an earlier schema."""
    if not isinstance(value, dict) or "schema" not in value:
        raise InputError("not a record: no schema version", where=where, hint="is this a records.jsonl?")
    schema = value["schema"]
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise InputError(
            f"schema version {schema!r}, this irepdeploy reads 1 to {SCHEMA_VERSION}",
            where=where,
            hint="read it with the irepdeploy that wrote it, or measure again",
        )
    later = {name for version, names in _SINCE.items() if version > schema for name in names}
    due = {item.name for item in fields(Record)} - later
    if set(value) != due:
        wrong = sorted(due - set(value)) + sorted(set(value) - due)
        raise InputError(f"not a record: fields missing or unknown: {', '.join(wrong)}", where=where)
    # If appended again, it has the current version.
    record = validated(Record, {**value, "schema": SCHEMA_VERSION}, "a record", where=where)
    if record.device_samples_ns and len(record.device_samples_ns) != len(record.samples_ns):
        raise InputError("not a record: device_samples_ns are not one for each of samples_ns", where=where)
    return record
