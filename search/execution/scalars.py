"""TensorBoard scalars of a run, mirrored from its journal."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from irepdeploy.errors import MissingError
from irepdeploy.files import as_ours, remove_tree
from irepdeploy.runs.journal import Epoch, Event, Evolution, read_events

__all__ = ["Scalars"]


class Scalars:
    """Write every number of a journal's epochs and evolutions for TensorBoard.

    The folder is rewritten from the existing lines of the journal, so that a resumed run contains each step once.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        try:
            # torch's SummaryWriter writes in its own thread, which prints a traceback on a full disk.
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise MissingError(
                "TensorBoard is not installed", where="--tensorboard", hint="pip install 'irepdeploy[tensorboard]'"
            ) from error
        self._record, self._writer = event_pb2.Event, RecordWriter
        self._folder, self._journal = folder, journal
        self._path: Path | None = None

    def open(self) -> None:
        """Mirror the existing lines of the journal now."""
        remove_tree(self._folder)
        # TensorBoard looks for this name and this first record.
        self._path = self._folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._append(self._path, self._record(wall_time=time.time(), file_version="brain.Event:2"))
        if self._journal.exists():
            for event in read_events(self._journal):
                self.write(event)

    def write(self, event: Event) -> None:
        """Mirror an epoch or an evolution that is not in the journal yet; other events are skipped."""
        if self._path is None:
            self.open()
        assert self._path is not None
        if isinstance(event, Epoch):
            step = event.epoch
        elif isinstance(event, Evolution):
            step = event.index
        else:
            return
        for name, value in _numbers(event):
            summary = {"value": [{"tag": f"{event.event}/{name}", "simple_value": value}]}
            self._append(self._path, self._record(wall_time=event.time or time.time(), step=step, summary=summary))

    def _append(self, path: Path, record: Any) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                self._writer(file).write(record.SerializeToString())
        except OSError as error:
            raise as_ours(error, path) from error


def _numbers(event: Event) -> Iterator[tuple[str, float]]:
    for name, value in event:
        if name != "time" and isinstance(value, float):
            yield name, value
