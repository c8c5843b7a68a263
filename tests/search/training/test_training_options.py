"""Options of a training recipe beyond the plain loop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from irepdeploy.data import Loader
from irepdeploy.errors import RunError
from irepdeploy.network.checkpoint import load
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import origin_of
from irepdeploy.search.training.training import Training, TrainingResult
from support.tiny import SOME, Stop, Tiny, Trained, stop_after

EVERYTHING = (
    "train.step=merged",
    "train.drop_path=0.3",
    "train.ema=0.9",
    "train.label_smoothing=0.1",
    "train.accumulate=2",
    "train.warmup_epochs=1",
    "train.augment.crop=2",
    "train.augment.flip=true",
    "train.augment.cutout=4",
    "train.augment.area=0.5",
    "train.augment.erase=0.5",
    "train.augment.mixup=0.4",
    "train.augment.cutmix=1",
)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load(path).state_dict()


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(result: TrainingResult) -> TrainingResult:
    return result.model_copy(update={"seconds": 0.0, "seconds_per_epoch": 0.0})


def test_with_everything_on_a_stopped_run_ends_as_if_it_had_not_been(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(*EVERYTHING)
    whole = Training(recipe, tmp_path / "whole", SOME).run()
    with pytest.raises(Stop):
        Training(recipe, tmp_path / "stopped", SOME).run(stop_after(2))
    torch.rand(7)
    resumed = Training(recipe, tmp_path / "stopped", SOME, resume=True).run()
    assert without_seconds(resumed) == without_seconds(whole)
    assert same(tmp_path / "stopped" / "last.pt", tmp_path / "whole" / "last.pt")


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("option", EVERYTHING)
def test_every_option_changes_the_weights(option: str, tiny: Tiny, tmp_path: Path, trained: Trained) -> None:
    Training(tiny(option), tmp_path, SOME).run()
    assert not same(tmp_path / "last.pt", trained[0] / "last.pt")


def test_the_moving_average_is_what_is_saved_and_the_checkpoint_says_so(tiny: Tiny, tmp_path: Path) -> None:
    run = Training(tiny("train.ema=0.9"), tmp_path, SOME)
    run.run()
    last = load(tmp_path / "last.pt")
    assert run.average is not None
    kept = run.average.module.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in last.state_dict().items())
    assert any(not torch.equal(value, kept[name]) for name, value in run.net.state_dict().items())
    assert "moving average 0.9" in origin_of(last).statistics


def test_drop_path_rises_linearly(tiny: Tiny, tmp_path: Path) -> None:
    run = Training(tiny("train.drop_path=0.6", "train.epochs=3"), tmp_path, SOME)
    seen: list[list[float]] = []

    def watch(more: int, note: str) -> None:
        seen.append(sorted({m.drop_path for m in run.net.modules() if isinstance(m, RepBlock)}))

    run.run(watch)
    assert seen[1:] == [[0.0], pytest.approx([0.2]), pytest.approx([0.4])]


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny: Tiny, tmp_path: Path) -> None:
    """Without batch normalization in train mode two halves are one batch; with it the statistics are of each half."""
    recipe = tiny("train.accumulate=2", "train.epochs=1", "train.weights.momentum=0", "branches=none")
    run = Training(recipe, tmp_path, None)
    start = {name: value.clone() for name, value in run.net.state_dict().items()}
    order = run.order.get_state()
    run.run()
    by_hand = Training(recipe, tmp_path / "hand", None)
    by_hand.net.load_state_dict(start)
    by_hand.order.set_state(order)
    by_hand.net.train()
    loader = Loader(by_hand.data.train, 12, by_hand.order)
    losses = [F.cross_entropy(by_hand.net(images), labels) for images, labels in loader]
    assert len(losses) == 2
    (sum(losses) / 2).backward()
    settings = recipe.train.weights
    parameters = list(by_hand.net.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip or math.inf)
    assert float(norm) > 0
    for (name, parameter), moved in zip(by_hand.net.named_parameters(), run.net.parameters(), strict=True):
        assert parameter.grad is not None
        step = parameter.grad + settings.weight_decay * start[name]
        assert torch.allclose(start[name] - settings.lr * step, moved, atol=1e-6)


def test_amp_trains_in_bfloat16(tiny: Tiny, tmp_path: Path) -> None:
    run = Training(tiny("train.amp=true", "train.epochs=1"), tmp_path, SOME)
    kinds: set[torch.dtype] = set()
    first = next(module for module in run.net.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype) if module.training else None)
    run.run()
    assert kinds == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in run.net.parameters())


def test_out_of_memory_ends_with_the_last_good_state(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny()
    run = Training(recipe, tmp_path, SOME)
    original = run.net.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        if run.epoch == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(images)

    monkeypatch.setattr(run.net, "forward", forward)
    with pytest.raises(RunError, match=r"out of memory in epoch 2 of the training .*smaller train\.batch_size"):
        run.run()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "epoch"]
    assert Training(recipe, tmp_path, SOME, resume=True).epoch == 1
