"""Records of measurements: raw samples together with the system and conditions under which they were taken.

Records are appended to a JSON Lines file and never changed. Appending does not read earlier lines; reading reports
invalid lines and skips them. Statistics are derived from the raw samples by `irepdeploy.board.protocol` when they are
shown, so that a new metric does not require new measurements.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, StrictStr

from irepdeploy.board.protocol import Ratio, ratio, sample_fault
from irepdeploy.errors import InputError
from irepdeploy.parsing.json_lines import Lines, append_line, read_lines
from irepdeploy.parsing.json_text import JsonError, unsealed
from irepdeploy.parsing.validation import validated

__all__ = ["SCHEMA_VERSION", "Record", "append", "read", "read_numbered", "record_of"]

SCHEMA_VERSION = 3


def _times(samples_ns: list[int]) -> list[int]:
    if (fault := sample_fault(samples_ns)) is not None:
        raise ValueError(fault)
    return samples_ns


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected a time such as 2026-01-02T03:04:05+00:00, got {text!r}") from None
    return text


_Time = Annotated[int, Field(ge=0, strict=True)]
# The maximum size of a tensor dimension in ONNX Runtime and TensorRT.
_Size = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
_Text = Annotated[str, Field(strict=True, max_length=4096)]
_Name = Annotated[str, Field(strict=True, min_length=1, max_length=4096)]


@dataclass(frozen=True)
class Record:
    """The measurement of one network on one runner.

    Attributes:
        suite: Suite that the measurement is part of.
        scenario: How queries arrive, such as "single-stream".
        model: Label of the model.
        source: Origin of the model: the state of a checkpoint, "onnx", or "network, random weights".
        artefact_sha256: Digest of the file; None for a network without a file.
        runner: Result of `Runner.describe`, with the runner's name on the command line.
        precision: Precision of the model.
        batch: Images per inference.
        input_shape: Shape of the first input, including the batch.
        samples_ns: Raw times by the host's clock in ns, in measuring order. The i-th samples of all records with the
            same `created` come from one round.
        warmup: Outcome of the warm-up: runs, steady, cov.
        protocol_version: Version of the measuring protocol.
        system: The machine before the measurement.
        conditions: Seed, order, limits, and the labels of all interleaved models.
        argv: Command line of the program.
        created: Start of the run (UTC, ISO 8601), the same for all records of one run.
        facts: Facts about the model other than its latency: net, params, macs, structure (digest), names (all names in
            tables), top1 (percent) and top1_source, paper_ms, notes.
        device_samples_ns: Times of the same runs by the device's own clock in ns; empty if it has none.
        system_after: Changeable state of the machine after the measurement; {} if unknown.
        power: Power and energy of the measurement: mean_mw by rail, energy_mj_per_inference; {} without a meter.
        schema: Version of the record's schema.
    """

    # A dataclass, so that `dataclasses.replace` works on records; pydantic validates them only when they are read.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    suite: _Name
    scenario: _Name
    model: _Name
    source: _Text
    artefact_sha256: Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")] | None
    runner: dict[str, Any]
    precision: _Name
    batch: _Size
    input_shape: Annotated[list[_Size], Field(min_length=1, max_length=64)]
    samples_ns: Annotated[list[_Time], Field(min_length=1), AfterValidator(_times)]
    warmup: dict[str, Any]
    protocol_version: Annotated[int, Field(ge=1, le=1000, strict=True)]
    system: dict[str, Any]
    conditions: dict[str, Any]
    argv: list[StrictStr]
    created: Annotated[_Text, AfterValidator(_moment)]
    facts: dict[str, Any] = field(default_factory=dict)
    device_samples_ns: list[_Time] = field(default_factory=list)
    system_after: dict[str, Any] = field(default_factory=dict)
    power: dict[str, Any] = field(default_factory=dict)
    schema: int = field(default=SCHEMA_VERSION)

    def is_paired_with(self, other: Record) -> bool:
        """Return whether the i-th samples of both records come from one round, which is the case within one run."""
        return self.created == other.created and len(self.samples_ns) == len(other.samples_ns)

    def ratio_to(self, reference: Record) -> Ratio:
        """Return the ratio of medians to the reference. The interval is deterministic."""
        return ratio(self.samples_ns, reference.samples_ns, seed=0, paired=self.is_paired_with(reference))


# Fields added by each schema version; they are empty in records of older versions. Version 3 added the check.
_SINCE: dict[int, tuple[str, ...]] = {2: ("facts", "device_samples_ns", "system_after", "power")}


def append(path: str | os.PathLike[str], record: Record) -> None:
    """Append a record as one line, flushed to disk. An incomplete line left by a killed writer is removed first."""
    append_line(path, asdict(record))


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Read the records of a file, in order. Invalid lines are reported on stderr and skipped.

    Raises:
        InputError: The file cannot be read, or none of its lines is a record.
    """
    return list(read_numbered(path).values.values())


def read_numbered(path: str | os.PathLike[str]) -> Lines[Record]:
    """Read the records of a file by line number, together with the faults of the skipped lines; see `read`."""
    return read_lines(path, record_of, "file of records", "record")


def record_of(value: object, where: str) -> Record:
    """Return the record in a JSON value, which may have an earlier schema.

    Args:
        value: The parsed JSON of a line.
        where: Place of the line, for error messages.

    Raises:
        InputError: The value is not a valid record.
    """
    try:
        value = unsealed(value)
    except JsonError as error:
        raise InputError(f"not a record: {error}", where=where) from None
    if not isinstance(value, dict) or "schema" not in value:
        raise InputError("not a record: no schema version", where=where, hint="is this a records.jsonl?")
    schema = value["schema"]
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise InputError(
            f"schema version {schema!r}, but this irepdeploy reads versions 1 to {SCHEMA_VERSION}",
            where=where,
            hint="read it with the irepdeploy that wrote it, or measure again",
        )
    later = {name for version, names in _SINCE.items() if version > schema for name in names}
    due = {item.name for item in fields(Record)} - later
    if set(value) != due:
        wrong = sorted(due - set(value)) + sorted(set(value) - due)
        raise InputError(f"not a record: fields missing or unknown: {', '.join(wrong)}", where=where)
    # Upgrade the version, in case the record is appended again.
    record = validated(Record, {**value, "schema": SCHEMA_VERSION}, "a record", where=where)
    if record.device_samples_ns and len(record.device_samples_ns) != len(record.samples_ns):
        raise InputError("not a record: device_samples_ns are not one for each of samples_ns", where=where)
    return record
