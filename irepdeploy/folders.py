"""Folders for results: created, checked and cleaned up."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from irepdeploy.files import as_ours

__all__ = ["output_folder", "staging_folder"]


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Create a writable folder at `path`, or raise OutputError before any work is done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise as_ours(error, path) from error
    return path


@contextlib.contextmanager
def staging_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a temporary folder inside `folder`, which is removed with all that `move_file` has not moved out of it.

    Folders left by killed processes are removed first.

    Raises:
        RunError: If the disk is full.
        OutputError: If `folder` cannot be written.
    """
    try:
        for left in Path(folder).glob(".staging-*-*"):
            if not _is_running(left.name.split("-")[1]):
                shutil.rmtree(left, ignore_errors=True)
        staging = tempfile.mkdtemp(prefix=f".staging-{os.getpid()}-", dir=folder)
    except OSError as error:
        raise as_ours(error, Path(folder)) from error
    try:
        yield Path(staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
