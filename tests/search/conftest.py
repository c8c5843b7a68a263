"""Finished runs of the tiny search and training, shared by all tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.reparam import sample
from irepdeploy.reparam.block import RepBlock
from irepdeploy.search import functions
from irepdeploy.search.engine import Search
from irepdeploy.search.evaluation import candidate_cost
from irepdeploy.search.training import training
from irepdeploy.search.training.training import Training
from support.tiny import SOME, JournalOf, Searched, Tiny, Trained, tiny, tiny_overrides

__all__ = ["tiny", "tiny_overrides"]


@pytest.fixture(scope="session", autouse=True)
def costs_are_counted_once() -> Iterator[None]:
    """Count what a branch adds to a layer once, and not again in every search."""
    known: dict[Any, Any] = {}
    original = candidate_cost._added

    def added(block: RepBlock, name: str, shape: tuple[int, ...], alone: tuple[int, int]) -> Any:
        key = block.geometry, name, shape
        if key not in known:
            known[key] = original(block, name, shape, alone)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate_cost, "_added", added)
        yield


@pytest.fixture
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let merged steps sample the narrow layers of tiny networks, which would take the exact step."""
    monkeypatch.setattr(sample, "_OF_CHANNELS", 1)


@pytest.fixture
def drawn() -> None:
    """Request the pictures of runs, which take longer than the runs themselves."""


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        for module in (functions, training):
            monkeypatch.setattr(module, "save_run_pictures", lambda *args: [])


@pytest.fixture(scope="session")
def searched(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A finished search of two epochs, one evolution: copy it before you change it."""
    out = tmp_path_factory.mktemp("searched")
    return out, Search(tiny("search.evolutions=1"), out).run()


@pytest.fixture(scope="session")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A finished training of three epochs, and beside it ``after1`` to ``after3``, as a kill leaves its folder."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, Training(tiny(), out, SOME).run(snapshots(out))


def snapshots(folder: Path) -> Callable[[int, str], None]:
    """Copy a run's folder to ``afterN`` beside it after each epoch."""
    done = 0

    def advance(more: int, note: str) -> None:
        nonlocal done
        done += more
        if more:
            shutil.copytree(folder, folder.parent / f"after{done}")

    return advance


@pytest.fixture(scope="session")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A finished search of a warm-up epoch and three evolutions; beside it ``after1`` to ``after4`` as `trained`."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, Search(tiny(), out).run(snapshots(out))


@pytest.fixture(scope="session")
def journal_of() -> JournalOf:
    """Return the lines of a run's journal without times."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        clock = ("time", "images_per_second", "check")
        return [{key: value for key, value in line.items() if key not in clock} for line in lines]

    return read


@pytest.fixture(scope="session")
def contents_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its relative name."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
