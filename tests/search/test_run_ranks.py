"""A search and a training on two processes, beside one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from irepdeploy.folders import output_folder
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.shipped import recipe_path
from support.processes import run_ranks
from support.tiny import JournalOf

_OVERRIDES = ["search.evolutions=2", "search.subnets_per_step=3", "search.evaluation.racing.share=0.5"]

_SEARCH = """
import sys
from pathlib import Path
from irepdeploy.cli import main

sys.exit(main(["search", "digits", *OVERRIDES, "--out", "OUT", *MORE]))
"""

_TRAIN = """
import sys
from irepdeploy.cli import main

sys.exit(main(["train", "digits", *OVERRIDES, "--out", "OUT"]))
"""


def code(text: str, overrides: list[str], out: Path, more: list[str] | None = None) -> str:
    return text.replace("OVERRIDES", repr(overrides)).replace("OUT", str(out)).replace("MORE", repr(more or []))


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "state.pt", weights_only=True)["model"]
    return state


@pytest.fixture(scope="module")
def overrides(tiny_overrides: list[str]) -> list[str]:
    return [*tiny_overrides, *_OVERRIDES]


@pytest.fixture(scope="module")
def alone(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from irepdeploy.recipe import load_recipe

    out = tmp_path_factory.mktemp("alone")
    Search(load_recipe(recipe_path("digits"), overrides), out).run()
    return out


def test_two_processes_search_what_one_does_to_the_bit(
    overrides: list[str], alone: Path, tmp_path: Path, journal_of: JournalOf
) -> None:
    out = tmp_path / "two"
    ends = run_ranks(code(_SEARCH, overrides, out), 2)
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert "wrote" in ends[0].stdout
    assert ends[1].stdout == ""
    assert ends[1].stderr == ""
    expected = weights(alone)
    assert all(torch.equal(value, expected[name]) for name, value in weights(out).items())
    one, two = journal_of(alone), journal_of(out)
    assert (one[0].pop("devices"), two[0].pop("devices")) == (1, 2)
    assert one == two
    for path in (alone / "population").iterdir():
        assert path.read_bytes() == (out / "population" / path.name).read_bytes()
    assert json.loads((out / "result.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_what_two_processes_began_one_can_end(overrides: list[str], alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    lose = code(_SEARCH, overrides, out).replace(
        "sys.exit(main(",
        """
from irepdeploy.search.execution.run_folder import RunFolder
import os, signal
original = RunFolder.save_state
def save_state(self, state):
    original(self, state)
    if state["epoch"] == 2 and self.silent:
        os.kill(os.getpid(), signal.SIGKILL)
RunFolder.save_state = save_state
sys.exit(main(""",
    )
    ends = run_ranks(lose, 2)
    assert [end.returncode for end in ends] == [4, -9], ends[0].stderr
    assert "rank 1 of 2 did not answer any more" in ends[0].stderr
    assert "--resume" in ends[0].stderr
    from irepdeploy.cli import main

    assert main(["search", "digits", *overrides, "--out", str(out), "--resume"]) == 0
    for path in (alone / "population").iterdir():
        assert path.read_bytes() == (out / "population" / path.name).read_bytes()


def test_two_processes_train_on_halves_of_each_batch(overrides: list[str], tmp_path: Path) -> None:
    ends = run_ranks(code(_TRAIN, [*overrides, "train.epochs=2", "train.ema=0.9"], tmp_path / "out"), 2)
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["devices"], result["epochs"]) == (2, 2)
    assert ends[1].stdout == ""


def test_of_several_ranks_the_one_that_writes_holds_the_folder(overrides: list[str], tmp_path: Path) -> None:
    with output_folder(tmp_path / "out"):
        ends = run_ranks(code(_SEARCH, overrides, tmp_path / "out"), 2)
        assert len(list((tmp_path / "out").iterdir())) == 1
    assert [end.returncode for end in ends] == [4, 4]
    assert "out: this folder is in use by `" in ends[0].stderr
    assert f"(process {os.getpid()} on " in ends[0].stderr
    assert "rank 0 of 2 failed: this folder is in use" in ends[1].stderr
