"""Trainings of detectors: what is frozen, resumed runs, backbones from files, fine-tuning, searches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.data import Stream
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector
from irepdeploy.errors import CheckpointError, InputError, RecipeError
from irepdeploy.network.backbone_weights import load_backbone
from irepdeploy.network.checkpoint import load, save
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.recipe import AugmentSection, Recipe, load_recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.origin import origin_of
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.supernet.batches import _changed
from irepdeploy.search.training.finetune import Finetuning
from irepdeploy.search.training.freezing import Freeze
from irepdeploy.search.training.training import Training
from support.processes import run_ranks
from support.targets import target

_STAGES = [[4], [6], [8]]
_TINY = [
    "scale=smoke",
    "data.options={train: 12, val: 6, test: 4, size: 32}",
    "train.batch_size=6",
    "train.epochs=2",
    "threads=1",
]
_NETS = {
    "shapes_centernet": f"net.args={{stages: {_STAGES}, neck: [8], head: 8}}",
    "shapes_faster_rcnn": f"net.args={{stages: {_STAGES}, pyramid: 8, hidden: 16, proposals: 20, trained: [32, 16]}}",
}

Make = Callable[..., Recipe]


@pytest.fixture(params=_NETS)
def make(request: pytest.FixtureRequest) -> Make:
    """Make a tiny recipe of either detector."""
    name = request.param
    return lambda *more: load_recipe(recipe_path(name), [*_TINY, _NETS[name], *more])


@pytest.fixture
def centernet() -> Make:
    name = "shapes_centernet"
    return lambda *more: load_recipe(recipe_path(name), [*_TINY, _NETS[name], *more])


def state_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path / "state.pt", weights_only=True)["model"]
    return found


def test_a_run_leaves_what_others_do_and_resumes_to_the_bit(make: Make, tmp_path: Path) -> None:
    changes = ("flip=true", "scales=[0.5, 1.0, 1.5]", "photometric=true", "crop_pad=32")
    recipe = make("train.ema=0.9", *(f"train.augment.{change}" for change in changes))
    whole = Training(recipe, tmp_path / "whole", None).run()
    stopped = Training(recipe, tmp_path / "parts", None)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(lambda epochs, note: _stop() if epochs == 1 else None)
    resumed = Training(recipe, tmp_path / "parts", None, resume=True).run()
    one, other = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.sets == whole.sets
    lines = [json.loads(line) for line in (tmp_path / "whole" / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["metric"] == {"name": "AP", "unit": "%"} and len(lines) == 3
    assert whole.by.name == "AP" and {"AP", "AP50", "AP75"} <= set(whole.sets["test"].figures)
    best = load(tmp_path / "whole" / "best.pt")
    assert isinstance(best, Detector) and best.classes == 10
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        pairs = [best.decode(*net.eval()(images)) for net in (best, ird.fuse(best))]
    for mine, fused in zip(*(Detections.of_batch(*pair) for pair in pairs), strict=True):
        assert len(mine) == len(fused)
        assert torch.allclose(mine.scores, fused.scores, atol=1e-5)


def _stop() -> None:
    raise KeyboardInterrupt


def test_frozen_parts_are_equal_to_the_bit_after_a_step(make: Make, tmp_path: Path) -> None:
    more = ("freeze.stages=1", "freeze.statistics=true", "train.epochs=1", "train.augment.scales=[0.5, 1.0]")
    training = Training(make(*more), tmp_path / "run", None)
    before = {name: value.clone() for name, value in training.net.state_dict().items()}
    training.run()
    after = training.net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("backbone.stages.0.") for name in changed)
    statistics = {name for name in before if name.startswith("backbone.") and ".running_" in name}
    assert statistics and not statistics & changed
    # Later stages train, branches and affine parts included.
    assert any(name.startswith("backbone.stages.2.") and name.endswith(".bn.weight") for name in changed)
    assert any(name.startswith("backbone.stages.1.") and ".branches." in name for name in changed)


def test_blocks_with_frozen_statistics_compute_one_convolution(make: Make) -> None:
    """In train mode the outputs are those of eval mode, with every branch, and gradients reach each of them."""
    torch.manual_seed(0)
    recipe = make()
    plain = build_plain(recipe.net.name or "", input_shape=(1, 32, 32), **recipe.net.args)
    net = randomize_statistics(insert_branches(plain, "ireps", where="backbone")).double()
    freeze = Freeze(net, recipe.freeze.model_copy(update={"statistics": True}))
    images = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        wanted = net.eval().backbone(images)
    net.train()
    freeze.apply()
    blocks = [module for module in net.modules() if isinstance(module, RepBlock)]
    calls = [0] * len(blocks)
    for index, block in enumerate(blocks):
        conv = block.fixed.conv

        def counted(x: Any, index: int = index, forward: Any = conv.forward) -> Any:
            calls[index] += 1
            return forward(x)

        conv.forward = counted  # type: ignore[method-assign]
    found = net.backbone(images)
    assert not any(calls)
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(found, wanted, strict=True))
    sum(each.square().sum() for each in found).backward()
    without = [name for name, parameter in net.backbone.named_parameters() if parameter.grad is None]
    assert not without


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("freeze.stages=4", "at most 3 stages, got 4"),
        ("train.compile=true", "no graph holds them"),
        ("train.augment.crop=2", "take only flip, scales, crop_pad, photometric"),
        ("train.augment.crop_pad=30", "expected a multiple of 8, the stride of the network, got 30"),
        ("data.name=digits", "task: classification"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(
    centernet: Make, override: str, told: str, tmp_path: Path
) -> None:
    more = ["data.options={}"] if override.startswith("data") else []
    with pytest.raises(InputError, match=told):
        Training(centernet(override, *more), tmp_path / "run", None)


def test_only_detectors_have_backbones(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path("digits"), ["scale=smoke", "freeze.stages=1"])
    with pytest.raises(RecipeError, match="VGG has none"):
        Training(recipe, tmp_path / "run", None)
    with pytest.raises(InputError, match="task: detection"):
        Training(load_recipe(recipe_path("digits"), ["scale=smoke", "data.name=shapes"]), tmp_path / "run", None)
    recipe = load_recipe(recipe_path("digits"), ["scale=smoke", "train.augment.photometric=true"])
    with pytest.raises(RecipeError, match=r"augment\.photometric: photometric is for images"):
        Training(recipe, tmp_path / "run", None)


@pytest.mark.parametrize("name", ["crop_pad", "photometric"])
def test_samples_of_a_list_are_not_cropped(name: str) -> None:
    stream = Stream([(torch.zeros(1, 8, 8), target([], []))], lambda batch: batch, "train")
    assert _changed(stream, AugmentSection()) is stream
    with pytest.raises(RecipeError, match=rf"augment\.{name}: it needs images that are not normalized"):
        _changed(stream, AugmentSection(**{name: 1 if name == "crop_pad" else True}))


def classifier() -> nn.Module:
    torch.manual_seed(1)
    return randomize_statistics(build_plain("vgg6", stages=_STAGES, input_shape=(1, 32, 32))).eval()


def detector(branches: str | None = None) -> Detector:
    torch.manual_seed(2)
    net: nn.Module = build_plain("centernet_vgg6", stages=_STAGES, neck=[8], head=8, input_shape=(1, 32, 32))
    if branches is not None:
        net = randomize_statistics(insert_branches(net, branches, where="backbone"), seed=3)
    assert isinstance(net, Detector)
    return net.eval()


@pytest.mark.parametrize("branches", [None, "acnet"])
@pytest.mark.parametrize("kind", ["plain", "train state", "fused", "state dict"])
def test_weights_of_a_classifier_give_its_maps(
    kind: str, branches: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, path = classifier(), tmp_path / "source.pt"
    if kind in ("train state", "fused"):
        source = randomize_statistics(insert_branches(source, "acnet"), seed=7).eval()
    if kind == "state dict":
        torch.save({"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}}, path)
    else:
        save(ird.fuse(source) if kind == "fused" else source, path)
    images = torch.randn(2, 1, 32, 32)
    net = detector(branches)
    load_backbone(net, path)
    x = images
    with torch.no_grad():
        for stage, found in zip(source.stages, net.backbone(images), strict=True):  # type: ignore[arg-type]
            x = stage(x)
            assert torch.allclose(found, x, atol=1e-5, rtol=1e-4)
    assert "head.weight" in capsys.readouterr().err
    blocks = [module for module in net.modules() if isinstance(module, RepBlock)]
    if branches and kind == "train state":
        # The branches themselves, not their sum.
        assert all(bool(branch.bn.weight.any()) for block in blocks for branch in block.branches.values())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save(build_plain("vgg6"), tmp_path / "vgg.pt")
    save(build_plain("small_resnet18"), tmp_path / "resnet.pt")
    with pytest.raises(CheckpointError, match=r"expected \(4, 1, 3, 3\), got \(16, 1, 3, 3\)"):
        load_backbone(detector(), tmp_path / "vgg.pt")
    with pytest.raises(CheckpointError, match=r"of the backbone missing: stages\.0\.0\.conv\.weight"):
        load_backbone(detector(), tmp_path / "resnet.pt")
    with pytest.raises(InputError, match="no backbone to load"):
        load_backbone(classifier(), tmp_path / "vgg.pt")


def test_fine_tuning_starts_at_what_is_there(centernet: Make, tmp_path: Path) -> None:
    Training(centernet("branches=none"), tmp_path / "plain", None).run()
    recipe = centernet("train.epochs=1", "train.weights.lr=0.0001")
    run = Finetuning(recipe, tmp_path / "tuned", tmp_path / "plain" / "best.pt", "acnet")
    assert all(layer.name.startswith("backbone.") for layer in origin_of(run.training.net).layers)
    assert run.training.branches == 6
    result = run.run()
    assert result.training.by.name == "AP"
    assert result.accuracy_before == pytest.approx(run.training.score_test(run.source.eval()).value)


def test_average_precision_decides_a_search(centernet: Make, tmp_path: Path) -> None:
    recipe = centernet(
        "search.warmup_epochs=1", "search.evolutions=1", "search.epochs_per_evolution=1", "search.population=3",
        "search.batch_size=6", "search.subnets_per_step=1", "freeze.stages=1", "freeze.statistics=true",
    )  # fmt: skip
    search = Search(recipe, tmp_path / "search")
    before = {name: value.clone() for name, value in search.supernet.model.state_dict().items()}
    found = search.run()
    after = search.supernet.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".branches." in name for name in changed)
    # The batch counters, which nothing reads, keep counting.
    weights = {name for name in changed if name.startswith("backbone.") and not name.endswith("num_batches_tracked")}
    assert not any(".running_" in name or ".stages.0." in name for name in weights)
    assert found.figures.by.name == "AP" and "AP50" in found.figures.figures
    assert all(layer.startswith("backbone.") for layer in found.best.layers)
    trained = Training(recipe, tmp_path / "train", found.best)
    assert trained.branches == found.best.count


_RANK = """
import sys
from irepdeploy.cli import main

sys.exit(main(["train", *ARGUMENTS]))
"""


def test_two_processes_train_on_halves_of_each_batch(tmp_path: Path) -> None:
    name, out = "shapes_faster_rcnn", tmp_path / "out"
    more = ["freeze.stages=1", "freeze.statistics=true", "train.epochs=1"]
    arguments = [name, *_TINY, _NETS[name], *more, "--out", str(out)]
    ends = run_ranks(_RANK.replace("ARGUMENTS", repr(arguments)), 2)
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    result = json.loads((out / "result.json").read_text())
    assert (result["devices"], result["metric"]["name"]) == (2, "AP")


def test_from_python_with_samples_of_a_list(centernet: Make, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    # Of several sizes: batches are padded.
    sizes = [(32, 32), (24, 32), (32, 20)] * 2
    objects = [target([[2, 2, 12, 14]], [index % 10], image_id=index) for index in range(6)]
    samples = [(torch.rand(1, *size, generator=random), each) for size, each in zip(sizes, objects, strict=True)]
    net = build_plain("centernet_vgg6", stages=_STAGES, neck=[8], head=8, input_shape=(1, 32, 32))
    options: dict[str, Any] = {"epochs": 1, "batch_size": 3, "branches": "acnet", "where": "backbone"}
    found = ird.train(
        net, train=samples, val=samples[:3], task="detection", out=tmp_path / "run", allow_shared=True, **options
    )
    assert isinstance(found.model, Detector) and "AP50" in found.scores["val"].figures
    with pytest.raises(InputError, match="expected a network that detects, got VGG"):
        ird.train(
            build_plain("vgg6"), train=samples, val=samples[:3], task="detection", out=tmp_path / "none", **options
        )
    labels = [(image, replace(each, labels=each.labels + 10)) for image, each in samples]
    with pytest.raises(InputError, match="labels from 0 to 9, got 1"):
        ird.train(net, train=labels, val=samples, task="detection", out=tmp_path / "bad", **options)
