"""The folder of a run: its journal, its saved state, and checks that no run is lost by accident.

The journal is append-only JSON lines, from which every figure can be redrawn. The state is one file, written atomically
after each epoch, from which a killed run resumes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import irepdeploy
from irepdeploy.console import log
from irepdeploy.errors import CheckpointError, InputError, IrepdeployError, first_line
from irepdeploy.files import read_bytes, remove_file, write_bytes
from irepdeploy.folders import make_folder, output_folder
from irepdeploy.limits import open_file
from irepdeploy.network.archive import pack, unpack
from irepdeploy.parsing.json_lines import LONGEST_LINE
from irepdeploy.recipe import Recipe
from irepdeploy.runs.journal import JOURNAL, Epoch, Event, Start, read_events

from .ranks import Ranks
from .scalars import Scalars

__all__ = ["RunFolder", "begun_by", "holds_a_run", "own_folder", "start_facts"]

_STATE = "state.pt"
_CONDITIONS = ("identity", "threads", "journal", "torch", "torch_random", "cuda_random")
_OVER = "--overwrite starts over"
_TENSORBOARD = "tensorboard"


@contextmanager
def own_folder(out: Path, ranks: Ranks) -> Iterator[Path]:
    """Lock the output folder of a run; among several ranks, only the one that writes locks it, and the others wait."""
    if ranks.first:
        with output_folder(out) as folder:
            ranks.barrier()
            yield folder
    else:
        ranks.barrier()
        yield out


class RunFolder:
    """The folder of one run of one recipe.

    Nothing in it changes before the first epoch is done, so a run that is refused before then leaves no trace.

    A run begun by a launcher of these ranks is resumed even without `resume`, and even with `overwrite`: torchrun
    starts the same command again after losing a rank.

    Args:
        path: The folder.
        identity: Text that identifies the run; a saved state with another identity is refused.
        results: Globs of the files of a finished run, which are removed when a run starts over.
        resume: Continue the run in the folder.
        overwrite: Start over even if the folder holds a run.
        ranks: Processes of the run, of which only the first one reads and writes; by default this process alone.
        computed_on: Devices that the result depends on.
        callbacks: Functions called with every event, after the journal.
    """

    def __init__(
        self,
        path: Path,
        identity: str,
        results: Sequence[str],
        *,
        resume: bool = False,
        overwrite: bool = False,
        ranks: Ranks | None = None,
        computed_on: str = "cpu",
        callbacks: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self._ranks = Ranks.alone() if ranks is None else ranks
        self.silent = silent = not self._ranks.first
        self.path = path if silent else make_folder(path)
        self.journal = self.path / JOURNAL
        self._identity = identity
        self._results = results
        self._computed_on = computed_on
        self._callbacks = callbacks
        self._scalars: Scalars | None = None
        self._start: Start | None = None
        if resume and overwrite:
            raise InputError("--resume continues a run and --overwrite discards it: choose one", where=path)
        self._resume = resume
        if resume and not silent and not self.journal.exists():
            log(f"{path}: holds no run to resume; starting a new one")
        if not (resume or silent) and (self.journal.exists() or self._earlier_files()):
            self._resume = begun_by(self._ranks, self.path)
            if self._resume:
                log(f"{path}: torchrun has restarted this run; continuing from the last saved state")
            elif not overwrite:
                raise holds_a_run(path)

    def mirror_to_tensorboard(self) -> None:
        """Also write the journal's numbers for TensorBoard from now on, into ``tensorboard/``."""
        if not self.silent:
            self._scalars = Scalars(self.path / _TENSORBOARD, self.journal)
            if self._start is None:
                self._scalars.open()

    def start(self, event: Start) -> None:
        """Start the run now; `event` is written as the first line of the journal together with the second event."""
        launchers = {"launchers": tuple(sorted(self._ranks.launchers))} if self._ranks.launchers else {}
        self._start = event.model_copy(update={"time": round(time.time(), 3), **launchers})

    def write(self, event: Event) -> None:
        """Append an event to the journal and flush it to the disk."""
        if self.silent:
            return
        if self._start is not None:
            # Once the journal is replaced, all other files belong to an earlier run, and a killed run starts over. The
            # state is removed last: results without a state are those of a finished run.
            self._start.begin(self.journal)
            for old in self._earlier_files():
                remove_file(old)
            self._call(self._start)
            self._start = None
        if self._scalars is not None:
            self._scalars.write(event)
        event.append(self.journal)
        self._call(event)

    def _call(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state atomically, with the conditions that a resumed run must meet; all ranks must call it."""
        ranks = self._ranks
        # Generators differ if each rank draws for its own part of a batch, such as for dropout.
        drawn = ranks.gather([_generators()], ranks.size)
        if self.silent:
            return
        content = {
            **state,
            "identity": self._identity,
            "journal": self.journal.stat().st_size,
            "started": self._first_line(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "computed_on": self._computed_on,
            "torch_random": drawn[0][0],
            "cuda_random": drawn[0][1],
            **({"ranks_random": drawn} if ranks.size > 1 else {}),
        }
        write_bytes(self.path / _STATE, pack(content))

    def load_state(self) -> dict[str, Any] | None:
        """Load the saved state and truncate the journal to it; return None if the run has to start over.

        All ranks must call it. The first one reads the state and sends it to the others, so that all continue from the
        same state even if they do not share a disk.
        """
        found = self._read_state() if self._resume and not self.silent else None
        content, state = found or (None, None)
        content = self._ranks.gather([] if self.silent else [content], 1)[0]
        if content is None:
            return None
        if state is None:
            state = unpack(content, where=self.path / _STATE, hint=_OVER)
        if state["torch"] != torch.__version__ and not self.silent:
            log(
                f"the run began with torch {state['torch']}; with {torch.__version__} the result will not be identical"
                " to the bit"
            )
        began = state.get("computed_on", self._computed_on)
        if began != self._computed_on and not self.silent:
            log(f"the run began on {began}; on {self._computed_on} the result will not be identical to the bit")
        # The result depends on the number of threads, which determines the order of summation.
        torch.set_num_threads(state["threads"])
        with self.restoring():
            drawn = state.get("ranks_random", [])
            same = len(drawn) == self._ranks.size
            on_cpu, on_cuda = drawn[self._ranks.rank] if same else (state["torch_random"], state["cuda_random"])
            torch.set_rng_state(on_cpu)
            if on_cuda is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(on_cuda)
        return state

    def _read_state(self) -> tuple[bytes, dict[str, Any]] | None:
        """Read and check the saved state, and truncate the journal to it; None if the run has to start over."""
        path = self.path / _STATE
        if not path.exists():
            events = read_events(self.journal, strict=True) if self.journal.exists() else []
            if _epochs(events) > 1 or self._is_finished():
                raise CheckpointError("the saved state of this run is missing", where=path, hint=_OVER)
            return None
        content = read_bytes(path, "saved state")
        state = unpack(content, where=path, hint=_OVER)
        try:
            identity, threads, size, _, _, _ = (state[key] for key in _CONDITIONS)
            if not (type(threads) is int and threads > 0 and type(size) is int and size >= 0):
                raise ValueError
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError("damaged: not the saved state of a run", where=path, hint=_OVER) from error
        # States of earlier versions lack this key.
        if self.journal.exists() and state.get("started", self._first_line()) != self._first_line():
            events = read_events(self.journal, strict=True)
            if _epochs(events) > 1:
                raise CheckpointError("the saved state belongs to another run than the journal", where=path, hint=_OVER)
            if any(isinstance(event, Start) for event in events):
                return None  # killed while replacing an earlier run
        if identity != self._identity:
            raise InputError(
                "the run in this folder has another recipe",
                where=self.path,
                hint="resume with its original recipe and overrides, or choose another --out",
            )
        if not self.journal.exists() or self.journal.stat().st_size < size:
            raise CheckpointError("the journal is shorter than the saved state says", where=self.journal)
        # Report a damaged line now, not hours later when the run is drawn.
        read_events(self.journal)
        os.truncate(self.journal, size)
        return content, state

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Convert errors raised by values of a saved state, perhaps of another version, into CheckpointError."""
        try:
            yield
        except (IrepdeployError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise CheckpointError(
                f"the saved state does not fit this run: {first_line(error)}",
                where=self.path / _STATE,
                hint=_OVER,
            ) from error

    def _is_finished(self) -> bool:
        """Whether the folder holds results that a run killed in its first epoch cannot have left."""
        left = [old.name for old in self._earlier_files()]
        return "result.json" in left or (bool(left) and not self.journal.exists())

    def _earlier_files(self) -> list[Path]:
        """Return the files of a run besides its journal, the state last."""
        return [old for pattern in (*self._results, _STATE) for old in sorted(self.path.glob(pattern))]

    def _first_line(self) -> str:
        """Return the digest of the journal's first line, which contains the start time and so identifies the run."""
        with open_file(self.journal, "journal") as file:
            return hashlib.sha256(file.readline(LONGEST_LINE)).hexdigest()


def _generators() -> tuple[torch.Tensor, torch.Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _epochs(events: Sequence[Event]) -> int:
    return sum(isinstance(event, Epoch) for event in events)


def begun_by(ranks: Ranks, folder: Path) -> bool:
    """Return whether a launcher of these ranks began the run in a folder, i.e. torchrun has restarted them."""
    if not ranks.launchers or not (folder / JOURNAL).exists():
        return False
    with suppress(InputError):
        return any(
            isinstance(event, Start) and not ranks.launchers.isdisjoint(event.launchers)
            for event in read_events(folder / JOURNAL)
        )
    return False


def holds_a_run(folder: Path) -> InputError:
    """Return the error for a folder that a run must not replace."""
    return InputError(
        "this folder already holds a run",
        where=folder,
        hint="--resume continues it, --overwrite starts over, or choose another --out",
    )


def start_facts(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that the first event of every run holds: the recipe and the conditions of its result."""
    return {
        # Scales have already been applied.
        "recipe": recipe.model_dump(mode="json", exclude={"scales"}),
        "threads": torch.get_num_threads(),
        "versions": {"irepdeploy": irepdeploy.__version__, "torch": str(torch.__version__)},
    }
