"""Ranks restarted by torchrun find each other and the run that they began."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from irepdeploy.errors import InputError, RunError
from irepdeploy.folders import LOCK, output_folder
from irepdeploy.runs.journal import Epoch, Start
from irepdeploy.search.execution import numbered, rendezvous
from irepdeploy.search.execution.numbered import folder_for
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.execution.run_folder import RunFolder, begun_by


def ranks(*launchers: str) -> Ranks:
    return Ranks(0, 1, torch.device("cpu"), launchers=frozenset(launchers))


def begun(path: Path, *launchers: str) -> Path:
    """A run that ended after its first epoch."""
    folder = RunFolder(path, "a recipe", ("best.json",), ranks=ranks(*launchers))
    assert folder.load_state() is None
    folder.start(Start(recipe={}))
    folder.write(Epoch(epoch=0, loss=0.5))
    folder.save_state({"epoch": 1})
    return path


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_that_torchrun_starts_again_is_resumed(
    overwrite: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = begun(tmp_path, "one", "two")
    again = RunFolder(path, "a recipe", (), ranks=ranks("two", "three"), overwrite=overwrite)
    state = again.load_state()
    assert state is not None and state["epoch"] == 1
    assert "torchrun has restarted this run" in capsys.readouterr().err


def test_a_run_of_another_launch_is_not_touched(tmp_path: Path) -> None:
    path = begun(tmp_path / "by torchrun", "one")
    alone = begun(tmp_path / "alone")
    assert "launchers" not in (alone / "journal.jsonl").read_text()
    for folder, others in ((path, ranks("two")), (path, ranks()), (alone, ranks("one")), (alone, ranks())):
        with pytest.raises(InputError, match="this folder already holds a run"):
            RunFolder(folder, "a recipe", (), ranks=others)
        assert RunFolder(folder, "a recipe", (), ranks=others, overwrite=True).load_state() is None
    with pytest.raises(InputError, match="another recipe"):
        RunFolder(path, "another", (), ranks=ranks("one")).load_state()
    (path / "journal.jsonl").write_text("{torn")
    assert not begun_by(ranks("one"), path)


def test_a_run_that_torchrun_starts_again_keeps_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def started(launcher: str, *, again: bool = False) -> Callable[[], str]:
        """A process of torchrun, whose calls are the runs of a script."""
        ours: set[Path] = set()

        def run() -> str:
            monkeypatch.setattr(numbered, "_ours", ours)
            return folder_for(None, "train", ranks(launcher), again=again).name

        return run

    def saved(name: str, launcher: str) -> None:
        begun(Path("runs") / name, launcher)

    saved("train", "earlier")
    first = started("one")
    assert first() == "train-2"
    saved("train-2", "one")
    # Another run has started meanwhile; a script may train twice.
    saved("train-3", "two")
    assert first() == "train-4"
    saved("train-4", "one")
    for again in (False, True):
        second = started("one", again=again)
        assert [second(), second()] == ["train-2", "train-4"]
    assert second() == "train-4" and started("one")() == "train-2"
    assert started("three")() == "train-5" and started("")() == "train-5"
    # Killed before the end of its first epoch.
    with output_folder("runs/train-5") as folder:
        assert started("three")() == "train-6"
        lock = (folder / LOCK).read_bytes()
    folder.mkdir()
    (folder / LOCK).write_bytes(lock)
    assert started("three")() == "train-5"


def test_ranks_of_a_new_start_do_not_join_an_earlier_one() -> None:
    store = distributed.HashStore()
    # Of three ranks, two came, and of two, all; then torchrun starts two again.
    for session, members in (("unfinished", None), ("finished", ["a one", "b two"])):
        store.set("session", session)
        store.set(f"{session}/1", "b two")
        if members:
            store.set(f"{session}/all", json.dumps(members))
        with ThreadPoolExecutor() as pool:
            second = pool.submit(rendezvous._session, store, 1, 2, 600.0)
            while store.get(f"{session}/1") == b"b two":
                pass  # it has seen the earlier session
            first = pool.submit(rendezvous._session, store, 0, 2, 600.0)
            assert first.result() == second.result()
            assert first.result()[0] not in ("unfinished", "finished")


@pytest.mark.parametrize(
    ("rank", "missing", "times"),
    [(0, 2, [0.0, 0.0, 0.0, 60.0]), (1, 0, [0.0, 60.0]), (1, 2, [0.0, 0.0, 61.0])],
)
def test_the_rank_that_does_not_come_is_named(
    rank: int, missing: int, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is up as soon as the rank waits for the one that is missing."""
    clock = iter(times)
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    store = distributed.HashStore()
    if rank and missing:
        store.set("session", "s")
        store.set("s/0", "a ")
    with ThreadPoolExecutor() as pool:
        # Of three ranks, this one comes; for the first also the second.
        mine = pool.submit(rendezvous._session, store, rank, 3, 60.0)
        if rank == 0:
            store.set(f"{store.get('session').decode()}/1", "b ")
        with pytest.raises(RunError, match=rf"rank {missing} of 3 did not join within 60 s"):
            mine.result()


def test_the_launcher_is_the_process_that_started_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert rendezvous.launcher() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    first = rendezvous.launcher()
    assert re.fullmatch("[0-9a-f]{16}", first) and rendezvous.launcher() == first
    # Not process 1, which may well have started the tests.
    own = os.getpid()
    monkeypatch.setattr(rendezvous.os, "getppid", lambda: own)
    assert rendezvous.launcher() != first
    monkeypatch.setattr(rendezvous.os, "getppid", lambda: 2**30)
    assert rendezvous.launcher() == ""
    monkeypatch.setattr(rendezvous.os, "getppid", lambda: own)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert len(Ranks.from_environment().launchers) == 1
