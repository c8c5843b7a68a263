"""TensorBoard's scalars of a run: its journal, mirrored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from irepdeploy.errors import MissingError
from irepdeploy.files import read_lines

__all__ = ["Scalars"]

# What counts the steps of an event.
_STEPS = {"epoch": "epoch", "evolution": "index"}


class Scalars:
    """Writes every number of a journal's epochs and evolutions for TensorBoard.

    What the folder held is written anew from the journal, so that a resumed run has each step once.

    Args:
        folder: becomes TensorBoard's log folder.
        journal: lines that are there already.

    Raises:
        MissingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingError(
                "TensorBoard is not installed", where="--tensorboard", hint="pip install 'irepdeploy[tensorboard]'"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        if journal.exists():
            for _, line in read_lines(journal, "journal"):
                if isinstance(line, dict):
                    self.write(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Mirror one line of the journal; lines of other events are left out."""
        counter = _STEPS.get(str(line.get("event")))
        if counter is None or counter not in line:
            return
        for name, value in _numbers(line, counter):
            self._writer.add_scalar(f"{line['event']}/{name}", value, line[counter], walltime=line.get("time"))
        self._writer.flush()

    def close(self) -> None:
        """Finish the log."""
        self._writer.close()


def _numbers(line: Mapping[str, Any], counter: str) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if name not in (counter, "time") and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
