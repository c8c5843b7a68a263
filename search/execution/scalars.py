"""TensorBoard scalars of a run, mirrored from its journal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from irepdeploy.errors import MissingError
from irepdeploy.runs.journal import Epoch, Event, Evolution, read_events

__all__ = ["Scalars"]


class Scalars:
    """Write every number of a journal's epochs and evolutions for TensorBoard.

    The folder is rewritten from the existing lines of the journal, so that a resumed run has each step once.
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
            for event in read_events(journal):
                self.write(event)

    def write(self, event: Event) -> None:
        """Mirror an epoch or an evolution; other events are skipped."""
        if isinstance(event, Epoch):
            step = event.epoch
        elif isinstance(event, Evolution):
            step = event.index
        else:
            return
        for name, value in _numbers(event):
            self._writer.add_scalar(f"{event.event}/{name}", value, step, walltime=event.time)
        self._writer.flush()


def _numbers(event: Event) -> Iterator[tuple[str, float]]:
    for name, value in event:
        if name != "time" and isinstance(value, float):
            yield name, value
