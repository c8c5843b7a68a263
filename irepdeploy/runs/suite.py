"""The interface of suites, each of which measures one of the paper's tables.

Stages register their suites as entry points in the group `irepdeploy.suites`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from irepdeploy.board.protocol import PROTOCOL_VERSION
from irepdeploy.board.system import system_block
from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.folders import make_folder, output_folder
from irepdeploy.parsing.json_lines import append_line, read_lines

__all__ = ["SCALES", "Suite", "SuiteReport", "SuiteRequest"]

SCALES = ("smoke", "small", "paper")

_MOST_THREADS = 1024
# Names of the fields on the command line.
_TYPED = {"models": "your own models", "runners": "--runner", "seconds": "--seconds", "only": "--only"}


@dataclass(frozen=True)
class SuiteRequest:
    """The options of a suite.

    Args:
        scale: "smoke" (seconds, to check that the suite runs), "small" (minutes on a CPU) or "paper" (the paper's
            conditions).
        device: Device of torch, "cpu" or "cuda".
        threads: Number of torch's CPU threads; None keeps the current number.
        seed: Seed of all random numbers.
        out: Folder with the ``records.jsonl`` to which raw figures are appended, or None.
        only: Labels of the rows to measure. Default: all.
        models: Models of the user, ``[label=]path`` or ``[label=]name``, to measure together with those of the suite.
        runners: Names of runners. Default: the suite's own choice.
        seconds: Minimum measuring time per network; for table1, maximum time for all populations. None: depends on the
            scale.

    Raises:
        InputError: An option is invalid.
    """

    scale: str = "small"
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0
    out: Path | None = None
    only: Sequence[str] = ()
    models: Sequence[str] = ()
    runners: Sequence[str] = ()
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"unknown scale {self.scale!r}", where="--scale", hint=f"one of {', '.join(SCALES)}")
        if self.device not in ("cpu", "cuda"):
            raise InputError(f"unknown device {self.device!r}", where="--device", hint="cpu or cuda")
        # torch crashes if the system cannot create that many threads.
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            raise InputError(f"cannot use {self.threads} threads", where="--threads", hint=f"from 1 to {_MOST_THREADS}")
        if self.seconds is not None and not 0 <= self.seconds < float("inf"):
            raise InputError(f"cannot measure for {self.seconds} s", where="--seconds", hint="0 or more")

    @contextmanager
    def own_folder(self) -> Iterator[None]:
        """Lock `out`, if there is one, until the block ends. Callers run a suite inside this block."""
        with nullcontext() if self.out is None else output_folder(self.out):
            yield

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Create a folder with this name in `out`, or a temporary folder if there is no `out`."""
        if self.out is not None:
            yield make_folder(self.out / name)
            return
        with tempfile.TemporaryDirectory(prefix="irepdeploy-") as temporary:
            yield Path(temporary)

    def record(self, *figures: Mapping[str, Any]) -> None:
        """Append figures, with the time and the machine, to ``records.jsonl`` in `out`; do nothing without `out`."""
        if self.out is None:
            return
        folder = make_folder(self.out)
        common = {
            "scale": self.scale,
            "seed": self.seed,
            "protocol_version": PROTOCOL_VERSION,
            "created": datetime.now(UTC).isoformat(),
            "system": system_block(),
        }
        for each in figures:
            append_line(folder / "records.jsonl", {**each, **common})

    def has_recorded(self, figures: Mapping[str, Any]) -> bool:
        """Return whether a line of ``records.jsonl`` in `out` contains all of these figures."""
        path = None if self.out is None else self.out / "records.jsonl"
        if path is None or not path.exists():
            return False
        lines = read_lines(path, lambda value, where: value, "file of records", of="record").values
        return any(isinstance(line, dict) and figures.items() <= line.items() for line in lines.values())

    def refuse(self, suite: str, *names: str) -> None:
        """Raise InputError if an option is set that this suite does not support.

        Args:
            suite: Name of the suite.
            names: Unsupported options, out of "models", "runners", "seconds" and "only".
        """
        for name in names:
            if getattr(self, name):
                raise InputError(f"it does not support {_TYPED[name]}", where=f"--suite {suite}", hint="omit it")


@dataclass(frozen=True)
class SuiteReport:
    """The results of a suite, as a table with notes and as machine-readable `figures`."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


class Suite(Protocol):
    """A function that measures one table. The first line of its docstring is its help."""

    def __call__(self, request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
        """Run the suite, appending raw figures to ``request.out / "records.jsonl"`` as they arrive."""
