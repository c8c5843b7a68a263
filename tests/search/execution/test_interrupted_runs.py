"""A run interrupted before any of its writes, and again when continued, still ends with the same files."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import irepdeploy as ird
from irepdeploy.files import write_bytes, write_json
from irepdeploy.runs import journal
from irepdeploy.runs.journal import Epoch, Start
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.run_folder import RunFolder
from irepdeploy.search.training.finetune import Finetuning
from irepdeploy.search.training.training import Training
from support.run_files import contents
from support.tiny import SOME, Stop, Tiny

# A run into a folder; the keywords are `resume` and `overwrite`.
Run = Callable[..., object]

_EPOCHS = 2
_NEVER = 10**6


@contextmanager
def ended_before(write: int, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let a process end before a write: this and every later one raises Stop; yield the writes that were done."""
    done: list[str] = []

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **options: Any) -> Any:
            if len(done) >= write:
                raise Stop
            done.append(original.__name__)
            # A real disk takes milliseconds.
            return None if original.__name__ == "fsync" else original(*args, **options)

        return function

    with patch.context() as during:
        # Files other than the journal get their name when they are moved into place.
        for original in (os.replace, os.unlink, os.fsync):
            during.setattr(os, original.__name__, watched(original))
        during.setattr(journal, "append_line", watched(journal.append_line))
        yield done


def toy(path: Path, *, recipe: str = "a recipe", **options: bool) -> None:
    """Write the files of a training, in its order."""
    folder = RunFolder(path, recipe, ("best", "last", "result.json"), **options)
    state = folder.load_state() if options.get("resume") else None
    if state is None:
        folder.start(Start(recipe={"seed": recipe}))
    else:
        assert (path / "best").read_text() == f"{recipe}, 0", "the best network is lost"
    for epoch in range(0 if state is None else state["epoch"], _EPOCHS):
        folder.write(Epoch(epoch=epoch, loss=0.5))
        for name in ["best", "last"][epoch > 0 :]:
            write_bytes(path / name, f"{recipe}, {epoch}".encode())
        folder.save_state({"epoch": epoch + 1})
    write_json(path / "result.json", recipe)


def ends_the_same(
    run: Run, whole: Path, earlier: Path | None, tmp_path: Path, patch: pytest.MonkeyPatch, again: Sequence[int]
) -> list[str]:
    """End a run before each of its writes, and the continued one before each of `again`; return the writes.

    `earlier` is the folder that the run overwrites.
    """
    before = {} if earlier is None else contents(earlier)
    cases = ((first, second) for first in itertools.count() for second in again)
    for first, second in cases:
        at = tmp_path / "at"
        shutil.rmtree(at, ignore_errors=True)
        if earlier is not None:
            shutil.copytree(earlier, at)
        with ended_before(first, patch) as writes:
            if _ends(run, at, overwrite=True):
                assert contents(at) == contents(whole)
                return writes
        for write in (second, _NEVER):
            with ended_before(write, patch):
                _ends(run, at, **_options(at, before))
        assert contents(at) == contents(whole), f"ended before write {first} ({writes}), and again before {second}"
    raise AssertionError


def _ends(run: Run, at: Path, **options: bool) -> bool:
    try:
        run(at, **options)
    except Stop:
        return False
    return True


def _options(at: Path, before: dict[str, Any]) -> dict[str, bool]:
    """Return the options that continue a run: an earlier one that is still there must be overwritten."""
    untouched = bool(before) and contents(at) == before
    return {"overwrite": untouched, "resume": not untouched}


@pytest.mark.parametrize("overwrites", [False, True])
def test_every_write_of_a_run_may_be_its_last(
    overwrites: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy(tmp_path / "whole")
    if overwrites:
        toy(tmp_path / "earlier", recipe="another")
    earlier = tmp_path / "earlier" if overwrites else None
    writes = ends_the_same(toy, tmp_path / "whole", earlier, tmp_path, monkeypatch, [0, 1, _NEVER])
    assert writes.count("unlink") == 4 * overwrites


@pytest.mark.slow
@pytest.mark.parametrize("command", ["search", "train", "finetune"])
def test_every_write_of_a_command_may_be_its_last(
    command: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ird.save(ird.build("vgg6", stages=[[4, 4], [6]]).eval(), tmp_path / "plain.pt")

    def run(at: Path, seed: int = 0, **options: bool) -> None:
        recipe = tiny(f"seed={seed}", "train.epochs=2", "search.evolutions=1", "search.population=2")
        if command == "search":
            Search(recipe, at, **options).run()
        elif command == "train":
            Training(recipe, at, SOME, **options).run()
        else:
            Finetuning(recipe, at, tmp_path / "plain.pt", "ireps", **options).run()

    run(tmp_path / "whole")
    run(tmp_path / "earlier", seed=1)
    writes = ends_the_same(run, tmp_path / "whole", tmp_path / "earlier", tmp_path, monkeypatch, [1])
    assert writes.count("unlink") >= 4
