from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.errors import CheckpointError, InputError, RecipeError, RunError
from irepdeploy.network.archive import pack
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.search import engine
from irepdeploy.search.engine import Search
from irepdeploy.search.execution import run_folder
from irepdeploy.search.execution.run_folder import RunFolder
from irepdeploy.search.result import SearchResult
from irepdeploy.search.supernet.supernet import Supernet
from support.tiny import JournalOf, Searched, Stop, Tiny, at_call, poison, raising, stop_after

ContentsOf = Callable[[Path], dict[str, bytes]]


def without_seconds(result: SearchResult) -> SearchResult:
    return replace(result, figures=result.figures.model_copy(update={"seconds": 0.0, "device_days": 0.0}))


@pytest.fixture(scope="module")
def recipe(tiny: Tiny) -> Recipe:
    return tiny()


@pytest.fixture(scope="module")
def short(tiny: Tiny) -> Recipe:
    """The recipe of `searched`: one warm-up epoch and one evolution of one epoch."""
    return tiny("search.evolutions=1")


@pytest.fixture
def copy(finished: Searched, tmp_path: Path) -> Path:
    """A run that was killed after two epochs."""
    return Path(shutil.copytree(finished[0].parent / "after2", tmp_path, dirs_exist_ok=True))


def test_what_a_search_leaves(finished: Searched, recipe: Recipe, journal_of: JournalOf) -> None:
    out, result = finished
    best = Architecture.load(out / "best.json")
    assert best == result.best == result.population[0]
    saved = [Architecture.load(path) for path in sorted((out / "population").iterdir())]
    assert saved == list(result.population)
    assert len({architecture.digest for architecture in saved}) == recipe.search.population
    assert all(architecture.count <= 16 for architecture in saved)  # 2/3 of 25
    written = json.loads((out / "result.json").read_text())
    assert written["best_digest"] == best.digest
    assert written["val_accuracy"] == result.fitness.value
    assert result.figures.evaluations == 3 * recipe.search.population
    events = [event["event"] for event in journal_of(out)]
    assert events == ["start", "epoch", *["epoch", "evolution"] * 3]
    assert sorted(path.name for path in out.iterdir()) == [
        "best.json",
        "full-recipe.yaml",
        "journal.jsonl",
        "pareto.json",
        "population",
        "result.json",
        "state.pt",
    ]


def test_the_best_of_the_last_evolution_wins(finished: Searched, journal_of: JournalOf) -> None:
    out, result = finished
    last = journal_of(out)[-1]
    order = sorted(range(len(last["accuracy"])), key=lambda i: (-last["accuracy"][i], last["loss"][i]))
    start = journal_of(out)[0]
    rows = [["0"] * len(start["branches"]) for _ in start["layers"]]
    for bit, (row, column) in zip(last["population"][order[0]], start["positions"], strict=True):
        rows[row][column] = bit
    assert [[int(bit) for bit in row] for row in rows] == [list(row) for row in result.best.matrix]
    assert (last["best"], last["loss"][order[0]]) == (result.fitness.value, -result.fitness.negative_loss)
    assert last["mean"] == pytest.approx(np.mean(last["accuracy"]))


def test_parents_of_an_evolution_are_its_best(finished: Searched, recipe: Recipe, journal_of: JournalOf) -> None:
    evolutions = [event for event in journal_of(finished[0]) if event["event"] == "evolution"]
    kept = max(1, round(recipe.search.parents * recipe.search.population))
    for one, following in itertools.pairwise(evolutions):
        order = sorted(range(len(one["accuracy"])), key=lambda i: (-one["accuracy"][i], one["loss"][i]))
        assert following["population"][:kept] == [one["population"][index] for index in order[:kept]]


def test_the_phases_of_algorithm_1_and_the_same_seed_gives_the_same_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Searched, journal_of: JournalOf
) -> None:
    steps: list[list[Any]] = []
    alphas: list[float] = []
    original = Supernet.accumulate

    def watched(self: Supernet, images: torch.Tensor, labels: torch.Tensor, subnets: Any, **options: Any) -> float:
        steps.append(list(subnets))
        alphas.append(sum(float(p.detach().abs()) for p in self.arch_parameters()))
        return original(self, images, labels, subnets, **options)

    monkeypatch.setattr(Supernet, "accumulate", watched)
    torch.rand(3)  # another state of the global generator must not matter
    # In an empty folder, resuming starts a new run.
    search = Search(recipe, tmp_path, resume=True)
    first = [bits.tobytes() for bits in search.population]
    assert without_seconds(search.run()) == without_seconds(finished[1])
    assert journal_of(tmp_path) == journal_of(finished[0])
    # 24 images in batches of 12: two steps an epoch.
    warm, rest = steps[:2], steps[2:]
    assert warm == [[None], [None]]
    assert len(rest) == 6
    assert all(len(step) == recipe.search.subnets_per_step for step in rest)
    assert all(bits.tobytes() in first for step in rest[:2] for bits in step)
    # Warm-up leaves alpha and beta alone; the first step after it moves them.
    assert alphas[:3] == [0, 0, 0]
    assert alphas[3] > 0


def test_another_seed_another_run(tiny: Tiny, tmp_path: Path, searched: Searched, journal_of: JournalOf) -> None:
    other = Search(tiny("search.evolutions=1", "seed=1"), tmp_path).run()
    assert other.population != searched[1].population
    assert [e["loss"] for e in journal_of(tmp_path)[1:]] != [e["loss"] for e in journal_of(searched[0])[1:]]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(
    recipe: Recipe, tmp_path: Path, finished: Searched, journal_of: JournalOf, epochs: int
) -> None:
    shutil.copytree(finished[0].parent / f"after{epochs}", tmp_path, dirs_exist_ok=True)
    resumed = Search(recipe, tmp_path, resume=True).run()
    assert without_seconds(resumed) == without_seconds(finished[1])
    assert journal_of(tmp_path) == journal_of(finished[0])
    assert {path.name for path in (tmp_path / "population").iterdir()} == {f"00{i}.json" for i in range(5)}


@pytest.mark.usefixtures("small_samples")
def test_a_search_by_merged_steps_that_was_interrupted_ends_as_if_it_had_not_been(
    tiny: Tiny, tmp_path: Path, journal_of: JournalOf
) -> None:
    recipe = tiny("search.step=merged", "search.evolutions=2")
    whole = Search(recipe, tmp_path / "whole")
    result = whole.run()
    with pytest.raises(Stop):
        Search(recipe, tmp_path / "stopped").run(stop_after(2))
    torch.rand(7)
    again = Search(recipe, tmp_path / "stopped", resume=True)
    assert without_seconds(again.run()) == without_seconds(result)
    assert journal_of(tmp_path / "stopped") == journal_of(tmp_path / "whole")
    expected, found = whole.supernet.model.state_dict(), again.supernet.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# The start, a state, an evolution, and the first and the second Architecture of the population.
@pytest.mark.parametrize("write", [0, 3, 5, 9, 11])
def test_an_interrupt_at_a_write_leaves_whole_files_and_the_same_end(
    short: Recipe,
    tmp_path: Path,
    searched: Searched,
    journal_of: JournalOf,
    monkeypatch: pytest.MonkeyPatch,
    write: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", at_call(write + 1, os.fsync, raising(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            Search(short, tmp_path).run()
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]
    for path in tmp_path.rglob("*.json"):
        json.loads(path.read_text())
    if (tmp_path / "state.pt").exists():
        torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = Search(short, tmp_path, resume=True).run()
    assert without_seconds(resumed) == without_seconds(searched[1])
    assert journal_of(tmp_path) == journal_of(searched[0])


def test_a_kill_between_journal_and_state_leaves_no_line_twice(
    short: Recipe, tmp_path: Path, searched: Searched, journal_of: JournalOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", at_call(2, RunFolder.save_state, raising(Stop)))
        with pytest.raises(Stop):
            Search(short, tmp_path).run()
    with open(tmp_path / "journal.jsonl", "a") as journal:
        journal.write('{"event": "ep')
    assert without_seconds(Search(short, tmp_path, resume=True).run()) == without_seconds(searched[1])
    assert journal_of(tmp_path) == journal_of(searched[0])


def test_a_finished_run_resumes_to_its_result(recipe: Recipe, finished: Searched, journal_of: JournalOf) -> None:
    out, result = finished
    before = journal_of(out)
    assert Search(recipe, out, resume=True).run() == result
    assert journal_of(out) == before


@pytest.mark.parametrize(
    "change", ["seed=1", "search.weights.lr=0.2", "search.population=6", "data.options.val=21", "branches=acnet"]
)
def test_another_recipe_is_refused_and_nothing_is_lost(
    tiny: Tiny, copy: Path, contents_of: ContentsOf, change: str
) -> None:
    before = contents_of(copy)
    with pytest.raises(InputError, match="another recipe"):
        Search(tiny(change), copy, resume=True)
    assert contents_of(copy) == before


def test_a_change_that_the_search_does_not_read_is_no_other_recipe(tiny: Tiny, copy: Path) -> None:
    assert Search(tiny("train.epochs=9"), copy, resume=True).epoch == 2


@pytest.mark.parametrize("name", ["best.json", "journal.jsonl", "state.pt", "result.json", "population/000.json"])
def test_a_folder_with_a_run_is_refused_and_nothing_is_lost(
    recipe: Recipe, tmp_path: Path, contents_of: ContentsOf, name: str
) -> None:
    (tmp_path / "population").mkdir()
    (tmp_path / name).write_text("mine")
    before = contents_of(tmp_path)
    with pytest.raises(InputError, match=r"this folder already holds a run.*--resume.*--overwrite"):
        Search(recipe, tmp_path)
    assert contents_of(tmp_path) == before


def test_overwrite_begins_anew_and_leaves_what_is_not_of_a_run(
    short: Recipe, copy: Path, searched: Searched, journal_of: JournalOf
) -> None:
    (copy / "notes.txt").write_text("mine")
    (copy / "population").mkdir()
    (copy / "population" / "099.json").write_text("old")
    assert without_seconds(Search(short, copy, overwrite=True).run()) == without_seconds(searched[1])
    assert journal_of(copy) == journal_of(searched[0])
    assert (copy / "notes.txt").read_text() == "mine"
    assert not (copy / "population" / "099.json").exists()


def test_overwrite_with_an_impossible_recipe_loses_nothing(tiny: Tiny, copy: Path, contents_of: ContentsOf) -> None:
    before = contents_of(copy)
    for change in ("search.budget=1/99", "net.name=vgg61", "data.options.train=-1"):
        with pytest.raises(InputError):
            Search(tiny(change), copy, overwrite=True)
    assert contents_of(copy) == before


def test_resume_and_overwrite_together_are_refused(recipe: Recipe, copy: Path, contents_of: ContentsOf) -> None:
    before = contents_of(copy)
    with pytest.raises(InputError, match="choose one"):
        Search(recipe, copy, resume=True, overwrite=True)
    assert contents_of(copy) == before


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "no state": ("state.pt", lambda content: None, "state of this run is missing"),
    "journal shorter than the state says": ("journal.jsonl", lambda content: content[:-1], "journal is shorter"),
    "journal of a few bytes": ("journal.jsonl", lambda content: content[:40], "journal is shorter"),
    "empty journal": ("journal.jsonl", lambda content: b"", "journal is shorter"),
    "journal of another run": (
        "journal.jsonl",
        lambda content: re.sub(rb',"check":"\w+"', b"", content),
        "to another run than the journal",
    ),
    "empty": ("state.pt", lambda content: b"", "damaged"),
    "garbage": ("state.pt", lambda content: b"garbage", "damaged"),
    "beginning": ("state.pt", lambda content: content[:100], "damaged"),
    "half": ("state.pt", lambda content: content[: len(content) // 2], "damaged"),
    "a byte less": ("state.pt", lambda content: content[:-1], "damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_and_nothing_is_lost(
    recipe: Recipe, copy: Path, contents_of: ContentsOf, damage: str
) -> None:
    name, change, words = DAMAGES[damage]
    changed = change((copy / name).read_bytes())
    (copy / name).unlink()
    if changed is not None:
        (copy / name).write_bytes(changed)
    before = contents_of(copy)
    with pytest.raises(CheckpointError, match=words):
        Search(recipe, copy, resume=True)
    assert contents_of(copy) == before


def test_a_damaged_line_of_the_journal_is_named_when_the_run_is_resumed(
    recipe: Recipe, copy: Path, contents_of: ContentsOf, capsys: pytest.CaptureFixture[str]
) -> None:
    start, epoch, *rest = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "journal.jsonl").write_bytes(b"".join([start, epoch.replace(b'"epoch":0', b'"epoch":7'), *rest]))
    Search(recipe, copy, resume=True)
    assert f"omitted: {copy / 'journal.jsonl'}, line 2: not an epoch: damaged" in capsys.readouterr().err
    (copy / "journal.jsonl").write_bytes(b"".join([start.replace(b'"start"', b'"stert"'), epoch, *rest]))
    before = contents_of(copy)
    with pytest.raises(InputError, match=r"line 1: not an event: damaged"):
        Search(recipe, copy, resume=True)
    assert contents_of(copy) == before


def test_no_flipped_bit_of_a_state_goes_unseen(recipe: Recipe, copy: Path) -> None:
    whole = (copy / "state.pt").read_bytes()
    identity = torch.load(copy / "state.pt", weights_only=True)["identity"]
    assert RunFolder(copy, identity, (), resume=True).load_state() is not None
    random = np.random.default_rng(0)
    for place in random.integers(0, len(whole), size=60):
        (copy / "state.pt").write_bytes(flipped(whole, int(place)))
        with pytest.raises(CheckpointError, match="damaged"):
            RunFolder(copy, identity, (), resume=True).load_state()


def test_a_state_that_another_version_wrote_is_refused(recipe: Recipe, copy: Path, contents_of: ContentsOf) -> None:
    state = torch.load(copy / "state.pt", weights_only=True)
    for change, words in (
        ({"threads": "many"}, "not the saved state of a run"),
        ({"torch_random": None}, "does not fit this run"),
        ({"model": {}}, "does not fit this run: Error"),
        ({"population": 7}, "does not fit this run: 'int'"),
    ):
        (copy / "state.pt").write_bytes(pack({**state, **change}))
        with pytest.raises(CheckpointError, match=words):
            Search(recipe, copy, resume=True)


def test_a_checkpoint_of_another_kind_is_no_state(recipe: Recipe, copy: Path) -> None:
    torch.save({"model": {}}, copy / "state.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        Search(recipe, copy, resume=True)


def test_resuming_with_another_torch_is_reported(
    recipe: Recipe, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Search(recipe, copy, resume=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(run_folder.torch, "__version__", "9.9.9")
    Search(recipe, copy, resume=True)
    assert "9.9.9" in capsys.readouterr().err


def test_the_number_of_threads_is_taken_up_again(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny("threads=null")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(Stop):
            Search(recipe, tmp_path).run(stop_after(1))
        torch.set_num_threads(1)
        Search(recipe, tmp_path, resume=True)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def finite_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())
    return state


@pytest.mark.parametrize("rate", ["1e38", "1e8"])
def test_a_rate_that_is_far_too_large_ends_the_run_with_the_last_good_state(
    tiny: Tiny, tmp_path: Path, rate: str
) -> None:
    with pytest.raises(RunError, match=r"weights\.lr") as caught:
        Search(tiny(f"search.weights.lr={rate}", "search.weights.clip=null"), tmp_path).run()
    assert caught.value.exit_code == 4
    if (tmp_path / "state.pt").exists():
        finite_state(tmp_path)
    assert not (tmp_path / "best.json").exists()


def test_nan_in_the_last_step_of_an_epoch_ends_the_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last step of the third epoch.
    monkeypatch.setattr(engine, "clip", at_call(6, engine.clip, poison))
    with pytest.raises(RunError, match="NaN or infinity in epoch 3 of the search"):
        Search(recipe, tmp_path).run()
    assert finite_state(tmp_path)["epoch"] == 2


def test_a_loss_that_is_no_number_ends_the_run(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = at_call(4, Supernet.accumulate, lambda *_, **__: float("nan"))
    monkeypatch.setattr(Supernet, "accumulate", poisoned)
    with pytest.raises(RunError, match="loss became nan in epoch 2"):
        Search(recipe, tmp_path).run()
    assert finite_state(tmp_path)["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("branches=none", "no branch to search"),
        ("branches=irpes", "unknown preset 'irpes'"),
        ("net.name=vgg61", "did you mean"),
        ("net.args.stages=[[2], [2], [2], [2], [2]]", "cannot read images of 1x16x16"),
        ("net.args.stages=[[-3]]", "cannot"),
        ("net.args.stages=[[abc]]", "cannot"),
        ("net.args.num_classes=3", "cannot be set here"),
        ("net.args.input_shape=[3, 8, 8]", "cannot be set here"),
        ("net.args.name=vgg16", "cannot be set here"),
        ("data.name=digitz", "no data set named 'digitz'"),
        ("data.options.train=abc", "do not fit"),
        ("data.options.colour=red", "colour"),
        ("data.options.name=digits", "name"),
    ],
)
def test_what_a_network_cannot_do_is_said_in_one_line(tiny: Tiny, tmp_path: Path, change: str, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        Search(tiny(change), tmp_path / "out")
    assert fault in caught.value.line
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_population_that_the_budget_does_not_allow_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    # One layer of eight branches, of which two are kept at most: 1 + 8 + 28.
    with pytest.raises(RecipeError, match="at most 37"):
        Search(tiny("search.population=100", "net.args.stages=[[2]]", "search.budget=1/4"), tmp_path)


def test_every_mode_of_evaluation_finds_the_same_population(tiny: Tiny, tmp_path: Path, finished: Searched) -> None:
    masks = Search(tiny("search.evaluation.mode=multi-branch"), tmp_path / "masks").run()
    assert masks.population == finished[1].population
    raced = Search(tiny("search.evaluation.racing.share=0.25"), tmp_path / "raced").run()
    assert raced.best == finished[1].best


def test_a_race_is_in_the_journal_and_an_interrupted_one_ends_the_same(
    tiny: Tiny, tmp_path: Path, journal_of: JournalOf
) -> None:
    recipe = tiny("search.evolutions=2", "search.evaluation.racing.share=0.25", "search.evaluation.racing.error=0.5")
    Search(recipe, tmp_path / "whole").run()
    races = [line["race"] for line in journal_of(tmp_path / "whole") if line["event"] == "evolution"]
    assert [len(found["images"]) for found in races] == [5, 5]
    with pytest.raises(Stop):
        Search(recipe, tmp_path / "half").run(stop_after(2))
    Search(recipe, tmp_path / "half", resume=True).run()
    assert journal_of(tmp_path / "half") == journal_of(tmp_path / "whole")


def test_the_pareto_set_is_of_the_last_population(finished: Searched) -> None:
    folder, result = finished
    found = json.loads((folder / "pareto.json").read_text())["candidates"]
    assert [candidate["digest"] for candidate in found] == [each.digest for each in result.population]
    assert [candidate["val_accuracy"] for candidate in found] == [each.value for each in result.fitnesses]
    assert any(candidate["pareto"] for candidate in found)


def test_more_memory_than_there_is_ends_with_the_last_good_state(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = raising(torch.OutOfMemoryError("CUDA out of memory"))
    with monkeypatch.context() as patch:
        patch.setattr(Supernet, "accumulate", at_call(3, Supernet.accumulate, full))
        with pytest.raises(RunError, match=r"out of memory in epoch 2 of the search .*search\.batch_size"):
            Search(recipe, tmp_path).run()
    assert Search(recipe, tmp_path, resume=True).epoch == 1
