from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.data import Split
from irepdeploy.errors import ArchitectureError, CheckpointError, InputError, MissingError, RecipeError, RunError
from irepdeploy.network.archive import pack
from irepdeploy.network.checkpoint import load
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import origin_of
from irepdeploy.search.evaluation.evaluate import score
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.supernet import subject
from irepdeploy.search.supernet.builders import build_net, load_data, with_branches
from irepdeploy.search.training import training
from irepdeploy.search.training.training import Training, TrainingResult
from support.tiny import SOME, JournalOf, Tiny, Trained, at_call, poison, raising


def without_seconds(result: TrainingResult) -> TrainingResult:
    return result.model_copy(update={"seconds": 0.0, "seconds_per_epoch": 0.0})


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return load(path).state_dict()


def assert_same_weights(one: Path, two: Path) -> None:
    a, b = state_of(one), state_of(two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def recipe(tiny: Tiny) -> Recipe:
    return tiny()


def test_what_a_training_leaves(trained: Trained, recipe: Recipe, journal_of: JournalOf) -> None:
    out, result = trained
    assert sorted(path.name for path in out.iterdir()) == [
        "best.pt",
        "full-recipe.yaml",
        "journal.jsonl",
        "last.pt",
        "result.json",
        "state.pt",
    ]
    written = json.loads((out / "result.json").read_text())
    assert written["test_accuracy"] == result.test_accuracy
    assert written["branches"] == SOME.count == 3
    start, *epochs = journal_of(out)
    assert Architecture.from_dict(start["architecture"]) == SOME
    assert [event["epoch"] for event in epochs] == [0, 1, 2]
    accuracies = [event["val_accuracy"] for event in epochs]
    assert result.val_accuracy == max(accuracies)
    assert accuracies[result.best_epoch - 1] == result.val_accuracy


def test_best_pt_is_the_network_that_was_scored(trained: Trained, recipe: Recipe) -> None:
    out, result = trained
    best = load(out / "best.pt")
    assert best.irepdeploy_origin.architecture.count == 3  # type: ignore[union-attr]
    assert best.irepdeploy_origin.dataset == "digits"  # type: ignore[union-attr]
    assert best.irepdeploy_origin.statistics == "trained"  # type: ignore[union-attr]
    fused = ird.fuse(best)
    assert not any(isinstance(module, RepBlock | nn.BatchNorm2d) for module in fused.modules())
    data = load_data(recipe)
    for network in (best, fused):
        assert score(network, data.val).value == pytest.approx(result.val_accuracy, abs=0.051)
        assert score(network, data.load_test()).value == pytest.approx(result.test_accuracy, abs=2 / 597)
    assert score(fused, data.load_test()).value == result.test_accuracy


def test_the_best_epoch_is_kept_when_later_ones_are_worse(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = training.score, 0

    def worse_after_the_first(*args: Any) -> training.Fitness:
        nonlocal calls
        calls += 1
        found = original(*args)
        return replace(found, value=0.9 if calls == 1 else 0.1) if calls <= 3 else found

    monkeypatch.setattr(training, "score", worse_after_the_first)
    result = Training(recipe, tmp_path, SOME).run()
    assert (result.best_epoch, result.val_accuracy) == (1, 0.9)
    best, last = state_of(tmp_path / "best.pt"), state_of(tmp_path / "last.pt")
    counter = next(name for name in best if name.endswith("num_batches_tracked"))
    assert (int(best[counter]), int(last[counter])) == (2, 6)


def test_same_seed_same_weights_and_another_seed_others(
    recipe: Recipe, tiny: Tiny, tmp_path: Path, trained: Trained
) -> None:
    out, result = trained
    torch.rand(5)
    again = Training(recipe, tmp_path / "again", SOME, ranks=Ranks.alone()).run()
    assert without_seconds(again) == without_seconds(result)
    assert (again.device, again.devices) == ("cpu", 1)
    assert_same_weights(tmp_path / "again" / "last.pt", out / "last.pt")
    assert_same_weights(tmp_path / "again" / "best.pt", out / "best.pt")
    Training(tiny("seed=1"), tmp_path / "other", SOME).run()
    assert not torch.equal(
        state_of(tmp_path / "other" / "last.pt")["head.weight"], state_of(out / "last.pt")["head.weight"]
    )


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_training_that_was_interrupted_ends_with_the_same_weights(
    recipe: Recipe, tmp_path: Path, trained: Trained, journal_of: JournalOf, epochs: int
) -> None:
    out, result = trained
    shutil.copytree(out.parent / f"after{epochs}", tmp_path, dirs_exist_ok=True)
    resumed = Training(recipe, tmp_path, SOME, resume=True).run()
    assert without_seconds(resumed) == without_seconds(result)
    assert_same_weights(tmp_path / "last.pt", out / "last.pt")
    assert_same_weights(tmp_path / "best.pt", out / "best.pt")
    assert journal_of(tmp_path) == journal_of(out)


# The start, then of the first epoch its best network, its last one and its state.
@pytest.mark.parametrize("write", [1, 4, 6, 7])
def test_an_interrupt_at_a_write_leaves_whole_files_and_the_same_end(
    recipe: Recipe, tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", at_call(write, os.fsync, raising(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            Training(recipe, tmp_path, SOME).run()
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
    for path in tmp_path.glob("*t.pt"):
        load(path)
    assert without_seconds(Training(recipe, tmp_path, SOME, resume=True).run()) == without_seconds(trained[1])
    assert_same_weights(tmp_path / "last.pt", trained[0] / "last.pt")


def test_resume_with_another_architecture_is_refused(recipe: Recipe, trained: Trained) -> None:
    with pytest.raises(InputError, match="another recipe"):
        Training(recipe, trained[0], None, resume=True)


def test_the_test_set_is_scored_once_and_at_the_end(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[int, int]] = []
    epochs_done = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def count(net: nn.Module, split: Split, *rest: Any) -> Any:
            scored.append((epochs_done, len(split)))
            return original(net, split, *rest)

        return count

    def advance(more: int, note: str) -> None:
        nonlocal epochs_done
        epochs_done += more

    for name in ("score", "outcome_of"):
        monkeypatch.setattr(training, name, counted(getattr(training, name)))
    run = Training(recipe, tmp_path, SOME)
    val, test = len(run.data.val), len(run.data.load_test())
    assert val != test
    run.run(advance)
    assert scored == [(0, val), (1, val), (2, val), (3, val), (3, test)]


def test_a_missing_test_set_is_noticed_before_the_training(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_test() -> Split:
        raise MissingError("no such file", where="test_batch")

    monkeypatch.setattr(subject, "load_data", lambda of: replace(load_data(of), load_test=load_test))
    with pytest.raises(MissingError, match="no such file"):
        Training(recipe, tmp_path / "run", SOME)
    assert not (tmp_path / "run").exists()


def test_without_branches_the_network_is_plain(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny("branches=none", "train.epochs=1")
    result = Training(recipe, tmp_path, None).run()
    assert result.branches == 0
    names = state_of(tmp_path / "best.pt")
    assert not any("branches" in name or "alpha" in name for name in names)
    assert any(".bn." in name for name in names)


def test_an_architecture_that_keeps_nothing_trains(recipe: Recipe, tmp_path: Path) -> None:
    none = Architecture(SOME.layers, SOME.branches, ((0, 0, 0),) * 3)
    assert Training(recipe, tmp_path, none).run().branches == 0


def test_without_an_architecture_all_possible_branches_are_kept(recipe: Recipe, tmp_path: Path) -> None:
    run = Training(recipe, tmp_path, None)
    full = origin_of(run.net).architecture
    assert full.count == run.branches == 25
    assert "identity" not in full.kept("stages.0.0.conv")
    assert len(full.kept("stages.0.1.conv")) == 9


@pytest.mark.parametrize("factors", ["trainable", "folded"])
def test_factors_are_trained_or_folded_as_the_recipe_says(tiny: Tiny, tmp_path: Path, factors: str) -> None:
    Training(tiny(f"train.factors={factors}", "train.epochs=1"), tmp_path, SOME).run()
    state = state_of(tmp_path / "last.pt")
    moved = {name: float(value) for name, value in state.items() if ".alpha." in name or name.endswith(".beta")}
    if factors == "trainable":
        assert len(moved) == 3 + 2  # no beta in layers without branches
        assert all(value != 0 for value in moved.values())
    else:
        assert not moved


def test_folded_factors_start_as_the_trainable_ones_do(recipe: Recipe) -> None:
    nets = []
    for factors in ("trainable", "folded"):
        nets.append(with_branches(build_net(recipe), SOME, factors))  # type: ignore[arg-type]
    images = load_data(recipe).train.images
    assert torch.allclose(nets[0](images), nets[1](images), rtol=1e-4, atol=1e-5)
    assert [block.scaled for block in nets[1].modules() if isinstance(block, RepBlock)] == [False] * 3


@pytest.mark.parametrize(
    ("layer", "branch", "error"),
    [
        ("features.0", "conv1x3", RecipeError),
        ("stages.0.0.conv", "identity", ArchitectureError),
        ("stages.0.0.bn", "conv1x3", ArchitectureError),
        ("stages.0.0.conv", "conv9x9", ArchitectureError),
    ],
)
def test_an_architecture_of_another_network_is_refused(
    recipe: Recipe, tmp_path: Path, layer: str, branch: str, error: type[InputError]
) -> None:
    other = Architecture.from_branches({layer: [branch]}, (branch,))
    with pytest.raises(error) as caught:
        Training(recipe, tmp_path / "out", other)
    assert layer in caught.value.line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("branches", ["none", "ireps"])
def test_a_rate_that_is_far_too_large_ends_the_training(tiny: Tiny, tmp_path: Path, branches: str) -> None:
    recipe = tiny("train.weights.lr=1e38", "train.weights.clip=null", f"branches={branches}")
    with pytest.raises(RunError, match=r"weights\.lr") as caught:
        Training(recipe, tmp_path, None).run()
    assert caught.value.exit_code == 4
    assert not (tmp_path / "result.json").exists()


def test_nan_in_the_last_step_keeps_the_last_good_state(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "clip", at_call(4, training.clip, poison))
    with pytest.raises(RunError, match="NaN or infinity in epoch 2 of the training"):
        Training(recipe, tmp_path, SOME).run()
    for name in ("best.pt", "last.pt"):
        assert all(bool(torch.isfinite(value).all()) for value in state_of(tmp_path / name).values())
    assert torch.load(tmp_path / "state.pt", weights_only=True)["epoch"] == 1


def test_a_folder_with_a_best_network_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_text("mine")
    with pytest.raises(InputError, match="this folder already holds a run"):
        Training(recipe, tmp_path, SOME)
    assert (tmp_path / "best.pt").read_text() == "mine"


@pytest.mark.parametrize("gone", [["state.pt", "journal.jsonl"], ["state.pt"]])
def test_resume_keeps_a_finished_run_whose_state_is_gone(gone: list[str], tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny("train.epochs=1")
    Training(recipe, tmp_path, SOME).run()
    for name in gone:
        (tmp_path / name).unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="the saved state of this run is missing"):
        Training(recipe, tmp_path, SOME, resume=True).run()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_on_other_devices_is_reported(
    recipe: Recipe, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(trained[0], tmp_path / "copy"))
    Training(recipe, copy, SOME, resume=True)
    assert "not be identical to the bit" not in capsys.readouterr().err
    state = torch.load(copy / "state.pt", weights_only=True)
    (copy / "state.pt").write_bytes(pack({**state, "computed_on": "2 x cpu"}))
    Training(recipe, copy, SOME, resume=True)
    said = capsys.readouterr().err
    assert "the run began on 2 x cpu; on 1 x cpu the result will not be identical to the bit" in " ".join(said.split())


def test_presets_of_peers_are_not_weighed(tmp_path: Path) -> None:
    for preset, weighed in (("repvgg", False), ("ireps", True)):
        recipe = load_recipe(recipe_path("digits"), ["scale=smoke", f"branches={preset}"])
        net = Training(recipe, tmp_path / preset, None).net
        blocks = [module for module in net.modules() if isinstance(module, RepBlock)]
        assert {block.scaled for block in blocks} == {weighed}
        gammas = {float(value) for block in blocks for value in block.branches["conv1x1"].bn.weight.detach()}
        assert gammas == {1.0}


def test_the_fixed_operation_of_dyrep_has_a_normalization_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    net = Training(tiny("branches=dyrep"), tmp_path, None).net
    blocks = [module for module in net.modules() if isinstance(module, RepBlock)]
    assert all(block.fixed.bn is not None for block in blocks)
    assert all(isinstance(unit.bn, nn.BatchNorm2d) for stage in net.stages for unit in stage if hasattr(unit, "bn"))


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_best_network_that_is_gone_or_damaged_is_said_before_a_resumed_run_trains(
    recipe: Recipe, trained: Trained, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    best = out / "best.pt"
    content = best.read_bytes()
    best.unlink()
    if damage == "cut":
        best.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"best\.pt: the best network of this run.*--overwrite starts over"):
        Training(recipe, out, SOME, resume=True)
