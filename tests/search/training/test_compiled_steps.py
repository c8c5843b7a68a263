"""`train.compile` and `search.compile`: results, number of graphs, and resumed runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from irepdeploy.errors import MissingError
from irepdeploy.runtime import compiled
from irepdeploy.search.engine import Search
from irepdeploy.search.training.training import Training
from support.tiny import SOME, Stop, Tiny, stop_after

pytestmark = pytest.mark.usefixtures("small_samples")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
# Two batches of 12 an epoch.
OPTIONS = ("train.drop_path=0.5", "train.ema=0.9", "train.accumulate=2")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that dynamo captures, which are run as they are."""
    found: list[Any] = []

    def backend(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph

    monkeypatch.setattr(compiled, "_BACKEND", backend)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    return found


@pytest.mark.parametrize("step", [pytest.param("exact", marks=pytest.mark.slow), "merged"])
def test_compiled_training_is_the_same_training(
    step: str, tiny: Tiny, tmp_path: Path, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*OPTIONS, f"train.step={step}")
    plain = Training(tiny(*options), tmp_path / "plain", SOME)
    plain.run()
    assert not graphs
    ours = Training(tiny(*options, "train.compile=true"), tmp_path / "compiled", SOME)
    ours.run()
    # One without drop-path, for the first epoch, and one for all others.
    assert len(graphs) == 2
    expected, found = plain.net.state_dict(), ours.net.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_is_the_same_to_the_bit(tiny: Tiny, tmp_path: Path, graphs: list[Any]) -> None:
    recipe = tiny(*OPTIONS, "train.step=merged", "train.compile=true")
    whole = Training(recipe, tmp_path / "whole", SOME)
    whole.run()
    with pytest.raises(Stop):
        Training(recipe, tmp_path / "stopped", SOME).run(stop_after(2))
    resumed = Training(recipe, tmp_path / "stopped", SOME, resume=True)
    resumed.run()
    assert len(graphs) > 4
    for name, value in whole.net.state_dict().items():
        assert torch.equal(resumed.net.state_dict()[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("step", ["exact", "merged"])
def test_a_search_compiles_the_whole_supernet_and_no_subnet(
    step: str, tiny: Tiny, tmp_path: Path, graphs: list[Any]
) -> None:
    options = "search.compile=true", f"search.step={step}", "search.evolutions=2"
    result = Search(tiny(*options), tmp_path / "run").run()
    assert len(graphs) == 1
    assert len(result.population) == 5


@pytest.mark.parametrize("run", [Training, Search])
def test_without_a_compiler_nothing_is_begun(
    run: Callable[..., Any], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    section, more = ("train", (SOME,)) if run is Training else ("search", ())
    with pytest.raises(MissingError, match=rf"{section}\.compile: .* needs a C\+\+ compiler"):
        run(tiny(f"{section}.compile=true"), tmp_path / "run", *more)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # minutes of compiling
@needs_compiler
def test_inductor_trains_alike(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    plain, ours = (
        Training(tiny("train.epochs=1", *more), tmp_path / str(len(more)), SOME)
        for more in ((), ("train.compile=true",))
    )
    plain.run()
    ours.run()
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(ours.net.state_dict()[name], value, rtol=1e-3, atol=1e-4)
