"""The folder of a run: its journal, its saved state, and the care that no run is lost by accident.

The journal is append-only JSON lines, from which every figure can be drawn again. The state is one file, written whole
after each epoch, from which a killed run goes on.
"""

from __future__ import annotations

import io
import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import irepdeploy
from irepdeploy.errors import CheckpointError, InputError
from irepdeploy.files import append_line, output_folder, read_bytes, write_bytes
from irepdeploy.recipe import Recipe

__all__ = ["RunFolder"]

_JOURNAL = "journal.jsonl"
_STATE = "state.pt"


class RunFolder:
    """The folder of one run of one recipe.

    Args:
        path: made if it is not there.
        identity: what makes this run: a saved state of another one is refused.
        results: globs of the files that a finished run leaves; removed when a run begins anew.
        resume: go on with the run that is there, if there is one.
        overwrite: begin anew although a run is there.

    Raises:
        OutputError: the folder cannot be written.
        InputError: a run is there, and neither `resume` nor `overwrite` was asked for.
    """

    def __init__(
        self, path: Path, identity: str, results: Sequence[str], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.path = output_folder(path)
        self.journal = self.path / _JOURNAL
        self._identity = identity
        if resume:
            return
        if self.journal.exists() and not overwrite:
            raise InputError(
                "a run is in this folder already",
                where=path,
                hint="--resume goes on with it, --overwrite begins anew, or choose another --out",
            )
        for pattern in (_JOURNAL, _STATE, *results):
            for old in self.path.glob(pattern):
                old.unlink()

    def write(self, event: str, **fields: Any) -> None:
        """Append ``{"event": ..., "time": seconds since 1970, ...}`` to the journal and flush it to the disk."""
        append_line(self.journal, {"event": event, "time": round(time.time(), 3), **fields})

    def write_start(self, recipe: Recipe, **fields: Any) -> None:
        """Append the first line: the recipe and what its result depends on besides."""
        versions = {"irepdeploy": irepdeploy.__version__, "torch": str(torch.__version__)}
        self.write(
            "start", recipe=recipe.model_dump(mode="json"), threads=torch.get_num_threads(), versions=versions, **fields
        )

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state whole, with what a resumed run must find the same again."""
        content = {
            **state,
            "identity": self._identity,
            "journal": self.journal.stat().st_size,
            "threads": torch.get_num_threads(),
            "torch_random": torch.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(self.path / _STATE, buffer.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """The saved state, or None where there is none; what the journal holds beyond it is dropped and comes again.

        Raises:
            CheckpointError: the state is damaged.
            InputError: it is of a run with another recipe.
        """
        path = self.path / _STATE
        if not path.exists():
            self.journal.unlink(missing_ok=True)
            return None
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(read_bytes(path, "saved state")), weights_only=True)
            identity, threads, size = state["identity"], state["threads"], state["journal"]
        except (RuntimeError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError("the saved state is damaged", where=path, hint="--overwrite begins anew") from error
        if identity != self._identity:
            raise InputError(
                "the run in this folder has another recipe",
                where=self.path,
                hint="resume with the recipe and the overrides that it had",
            )
        if not self.journal.exists() or self.journal.stat().st_size < size:
            raise CheckpointError("the journal is shorter than the saved state says", where=self.journal)
        os.truncate(self.journal, size)
        # The number of threads is part of the result: with another one, sums are taken in another order.
        torch.set_num_threads(threads)
        torch.set_rng_state(state["torch_random"])
        return state
