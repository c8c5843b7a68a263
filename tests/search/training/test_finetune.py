from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError, InputError
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.recipe import Recipe
from irepdeploy.search.evaluation.evaluate import score
from irepdeploy.search.training.finetune import Finetuning
from support.tiny import Tiny


@pytest.fixture(scope="module")
def recipe(tiny: Tiny) -> Recipe:
    return tiny("train.epochs=2")


def network() -> nn.Module:
    torch.manual_seed(3)
    return randomize_statistics(ird.build("vgg6", stages=((4, 4), (6,)), input_shape=(1, 16, 16))).eval()


@pytest.fixture(scope="module", params=["train", "fused"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain network with its batch normalization, and one whose branches were fused."""
    folder = tmp_path_factory.mktemp("given")
    net = network()
    if request.param == "fused":
        net = ird.fuse(ird.insert_branches(net, "acnet").eval())
    return ird.save(net, folder / "given.pt")


def test_before_the_first_step_nothing_has_changed_and_the_end_is_plain(
    checkpoint: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = Finetuning(recipe, tmp_path, checkpoint, "ireps")
    images = run.data.val.images[:8]
    given = ird.load(checkpoint)
    with torch.inference_mode():
        # Channels last takes its sums in another order.
        assert torch.allclose(run.training.net.eval()(images), given(images), atol=1e-5)
    result = run.run()
    assert result.accuracy_before == score(given, run.data.load_test()).value
    best = ird.load(tmp_path / "best.pt")
    assert result.accuracy_after == score(ird.fuse(best), run.data.load_test()).value
    assert result.training.branches > 20
    moved = dict(best.named_parameters())
    assert any(float(value.detach().abs().max()) > 0 for name, value in moved.items() if name.endswith("alpha.conv1x3"))
    assert json.loads((tmp_path / "result.json").read_text())["accuracy_before"] == result.accuracy_before


def test_a_run_of_another_source_is_not_resumed(checkpoint: Path, recipe: Recipe, tmp_path: Path) -> None:
    Finetuning(recipe, tmp_path / "out", checkpoint, "acnet").run()
    with pytest.raises(InputError, match="another recipe"):
        Finetuning(recipe, tmp_path / "out", checkpoint, "repvgg", resume=True)
    other = ird.save(ird.build("vgg6", stages=((4, 4), (6,))).eval(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="another recipe"):
        Finetuning(recipe, tmp_path / "out", other, "acnet", resume=True)
    assert Finetuning(recipe, tmp_path / "out", checkpoint, "acnet", resume=True).training.epoch == 2


class Own(nn.Module):
    """A network that is not of the registry."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def test_a_class_of_ones_own(recipe: Recipe, tmp_path: Path) -> None:
    ird.save(Own().eval(), tmp_path / "own.pt")
    with pytest.raises(InputError, match="--model"):
        Finetuning(recipe, tmp_path / "out", tmp_path / "own.pt", "acnet")
    result = Finetuning(recipe, tmp_path / "out", tmp_path / "own.pt", "acnet", model=Own).run()
    assert result.training.epochs == 2
    assert isinstance(ird.fuse(ird.load(tmp_path / "out" / "best.pt", model=Own)), nn.Module)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: ird.build("vgg6", num_classes=7), "returns (1, 7), but digits has 10 classes"),
        (lambda: ird.build("vgg16"), "cannot read the 1x16x16 images of digits: it reads 3x32x32"),
    ],
)
def test_a_network_for_other_data(net: Callable[[], nn.Module], words: str, recipe: Recipe, tmp_path: Path) -> None:
    path = ird.save(net().eval(), tmp_path / "given.pt")
    with pytest.raises(InputError) as caught:
        Finetuning(recipe, tmp_path / "out", path, "ireps")
    assert words in caught.value.line
    assert not (tmp_path / "out").exists()


def test_branches_that_do_not_exist(checkpoint: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="irep"):
        Finetuning(recipe, tmp_path / "out", checkpoint, "irepz")
