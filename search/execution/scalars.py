"""TensorBoard scalars of a run, mirrored from its journal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from irepdeploy.errors import MissingError
from irepdeploy.runs.journal import Epoch, Event, Evolution, read_events

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Scalars"]


class Scalars:
    """Write every number of a journal's epochs and evolutions for TensorBoard.

    The folder is created by the first of them, or by `open`. It is rewritten from the existing lines of the journal, so
    that a resumed run has each step once.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingError(
                "TensorBoard is not installed", where="--tensorboard", hint="pip install 'irepdeploy[tensorboard]'"
            ) from error
        self._folder, self._journal = folder, journal

    def open(self) -> None:
        """Mirror the existing lines of the journal now."""
        _ = self._writer

    def write(self, event: Event) -> None:
        """Mirror an epoch or an evolution that is not in the journal yet; other events are skipped."""
        _mirror(event, self._writer)

    @cached_property
    def _writer(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(self._folder, ignore_errors=True)
        writer = SummaryWriter(str(self._folder))
        if self._journal.exists():
            for event in read_events(self._journal):
                _mirror(event, writer)
        return writer


def _mirror(event: Event, writer: SummaryWriter) -> None:
    if isinstance(event, Epoch):
        step = event.epoch
    elif isinstance(event, Evolution):
        step = event.index
    else:
        return
    for name, value in _numbers(event):
        writer.add_scalar(f"{event.event}/{name}", value, step, walltime=event.time)
    writer.flush()


def _numbers(event: Event) -> Iterator[tuple[str, float]]:
    for name, value in event:
        if name != "time" and isinstance(value, float):
            yield name, value
