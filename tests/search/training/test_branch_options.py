"""Options of a training that concern its branches: how they start, their rate and decay, and fusing them early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.errors import InputError, RecipeError
from irepdeploy.network.checkpoint import load
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.search.supernet.builders import build_net, with_branches
from irepdeploy.search.training import early_fuse
from irepdeploy.search.training.early_fuse import fused_early
from irepdeploy.search.training.steps import RecipeSteps
from irepdeploy.search.training.training import Training, TrainingResult
from support.tiny import SOME, Stop, Tiny, Trained, stop_after


def trained_net(recipe: Recipe, branches: str = "ireps") -> nn.Module:
    """A network with branches whose every parameter is random, as after a training."""
    net = randomize_statistics(with_branches(build_net(recipe), branches), seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "alpha" in name or "beta" in name:
                parameter.normal_()
    return net


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(7)
    return [(torch.randn(12, 1, 16, 16), torch.arange(12) % 10) for _ in range(count)]


def kinds(net: nn.Module) -> tuple[bool, bool]:
    """Whether a network has RepBlocks, and whether it has batch normalizations."""
    modules = list(net.modules())
    return any(isinstance(each, RepBlock) for each in modules), any(
        isinstance(each, nn.BatchNorm2d) for each in modules
    )


def facts(result: TrainingResult) -> dict[str, Any]:
    return result.model_dump(exclude={"seconds", "seconds_per_epoch"})


def test_silent_branches_leave_the_plain_network_and_learn(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny("train.branch_init=zero", "train.epochs=1")
    run = Training(recipe, tmp_path, None)
    images = batches(1)[0][0]
    with torch.inference_mode():
        assert torch.allclose(run.net.eval()(images), build_net(recipe).eval()(images), atol=1e-6)
    run.run()
    gammas = [list(each.modules())[-1].weight for block in blocks(run.net) for each in block.branches.values()]
    assert all(bool((gamma != 0).any()) for gamma in gammas)


def blocks(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, RepBlock)]


@pytest.mark.parametrize("factors", ["trainable", "folded"])
def test_branches_start_at_zero_whatever_the_factors(factors: str, tiny: Tiny, tmp_path: Path) -> None:
    run = Training(tiny("train.branch_init=zero", f"train.factors={factors}"), tmp_path, SOME)
    [gamma] = [block.branches["conv1x3"].bn.weight for block in blocks(run.net) if "conv1x3" in block.branches]
    assert not gamma.any()


def test_branches_have_a_rate_and_a_decay_of_their_own(tiny: Tiny) -> None:
    settings = tiny("train.branch_lr=0.25", "train.branch_decay=0", "train.weights.weight_decay=0.01").train
    net = trained_net(tiny())
    steps = RecipeSteps(net, settings)
    steps.set_rate(0, 0.0)
    rest, branches = steps.optimizer.param_groups
    assert (branches["lr"], branches["weight_decay"]) == (rest["lr"] / 4, 0)
    assert (rest["lr"], rest["weight_decay"]) == (settings.weights.lr, 0.01)
    names = {parameter: name for name, parameter in net.named_parameters()}
    assert all(
        ".branches." in names[each] or "alpha" in names[each] or "beta" in names[each] for each in branches["params"]
    )
    assert not any(".branches." in names[each] for each in rest["params"])
    assert len(rest["params"]) + len(branches["params"]) == len(names)
    # Without a factor there is one group, as runs that began earlier have it.
    assert len(RecipeSteps(net, tiny().train).optimizer.param_groups) == 1
    assert len(RecipeSteps(build_net(tiny()), settings).optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("option", "stops"),
    [
        ("train.branch_init=zero", []),
        ("train.branch_decay=100", []),
        ("train.branch_lr=0.5", [1]),
        # The fuse comes before the second epoch.
        ("train.fuse_at=0.5", [1, 2]),
    ],
)
def test_every_option_changes_the_weights_and_resumes(
    option: str, stops: list[int], tiny: Tiny, tmp_path: Path, trained: Trained
) -> None:
    recipe = tiny(option)
    whole = Training(recipe, tmp_path / "whole", SOME).run()
    found = load(tmp_path / "whole" / "last.pt").state_dict()
    base = load(trained[0] / "last.pt").state_dict()
    assert not torch.equal(found["head.weight"], base["head.weight"])
    for epochs in stops:
        at = tmp_path / str(epochs)
        with pytest.raises(Stop):
            Training(recipe, at, SOME).run(stop_after(epochs))
        assert facts(Training(recipe, at, SOME, resume=True).run()) == facts(whole)
        again = load(at / "last.pt").state_dict()
        assert found.keys() == again.keys() and all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("branches", ["ireps", "dbb"])
def test_an_early_fuse_is_the_same_function_and_its_normalizations_live(branches: str, tiny: Tiny) -> None:
    net = trained_net(tiny(), branches)
    data = batches()
    plain = fused_early(net, data)
    assert kinds(plain) == (False, True) and plain.training
    everything = torch.cat([images for images, _ in data])
    with torch.inference_mode():
        expected = net.eval()(everything).numpy()
        assert relative_error(expected, plain.eval()(everything).numpy()) < 1e-4
        # The statistics are those of these very images, so that train mode gives the same for all of them at once.
        assert relative_error(expected, plain.train()(everything).numpy()) < 1e-3


def test_without_new_statistics_train_mode_would_be_another_function(tiny: Tiny) -> None:
    net, [(images, _)] = trained_net(tiny()), batches(1)
    neutral = early_fuse.fused_structure(net)
    with torch.inference_mode():
        expected = net.eval()(images).numpy()
        assert relative_error(expected, neutral.eval()(images).numpy()) < 1e-4
        assert relative_error(expected, neutral.train()(images).numpy()) > 0.05


def test_fusing_early_trains_a_plain_network_on(tiny: Tiny, tmp_path: Path) -> None:
    run = Training(tiny("train.fuse_at=0.5", "train.epochs=4"), tmp_path, SOME)
    seen: list[bool] = []
    result = run.run(lambda more, note: seen.append(run.has_blocks) if more else None)
    # By the epochs that are done: the fuse comes before the third.
    assert seen == [True, True, False, False]
    assert result.branches == SOME.count
    last = load(tmp_path / "last.pt")
    assert kinds(last) == (False, True) and last.state_dict().keys() == build_net(tiny()).state_dict().keys()
    assert kinds(ird.fuse(load(tmp_path / "best.pt"))) == (False, result.best_epoch > 2)


def test_without_branches_there_is_nothing_to_fuse_early(tiny: Tiny, tmp_path: Path) -> None:
    plain = Training(tiny("branches=none", "train.epochs=2"), tmp_path / "a", None).run()
    early = Training(tiny("branches=none", "train.epochs=2", "train.fuse_at=0.5"), tmp_path / "b", None).run()
    assert facts(plain) == facts(early)


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        (("train.fuse_at=0.29", "train.epochs=100"), 29),
        (("train.fuse_at=0.01",), 1),
        (("train.fuse_at=0.99",), 2),
        ((), None),
    ],
)
def test_when_branches_are_fused(options: tuple[str, ...], epochs: int | None, tiny: Tiny) -> None:
    assert tiny(*options).train.fused_epochs == epochs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["train.fuse_at=0.5", "train.ema=0.9"], "an average cannot be fused midway"),
        (["train.fuse_at=0.5", "train.epochs=1"], "needs at least 2 epochs, got 1"),
        (["train.fuse_at=1"], "train.fuse_at"),
        (["train.fuse_at=0"], "train.fuse_at"),
        (["train.branch_lr=0"], "train.branch_lr"),
        (["train.branch_lr=nan"], "train.branch_lr"),
        (["train.branch_decay=-1"], "train.branch_decay"),
        (["train.branch_init=one"], "train.branch_init"),
    ],
)
def test_bad_values_are_refused(options: list[str], words: str, tiny: Tiny) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny(*options)
    assert words in caught.value.line


def test_what_cannot_be_fused_early_is_refused_before_the_first_epoch(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.fuse_at: .* cannot be fused before the end"):
        Training(tiny("train.fuse_at=0.5", "branches=dyrep"), tmp_path / "a", None)
    with pytest.raises(InputError, match=r"train\.fuse_at: a custom optimizer or scheduler"):
        Training(tiny("train.fuse_at=0.5"), tmp_path / "b", SOME, optimizer=lambda each: torch.optim.SGD(each, lr=0.1))
    with pytest.raises(InputError, match=r"train\.branch_decay: a custom optimizer or scheduler determines"):
        Training(tiny("train.branch_decay=0"), tmp_path / "c", SOME, optimizer=lambda each: torch.optim.SGD(each, lr=1))
    assert not any((tmp_path / name).exists() for name in "abc")
