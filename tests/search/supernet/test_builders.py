"""Building the data set and the network of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from irepdeploy.data import DATASETS, Loader, load_dataset
from irepdeploy.errors import InputError, RecipeError
from irepdeploy.reparam.block import RepBlock
from irepdeploy.search.supernet.builders import architecture_of, build_net, build_supernet, load_data, with_branches
from support.dataset_files import write_cifar10
from support.tiny import SOME, Tiny

CIFAR10 = ["data.name=cifar10", "data.verify=false", "data.options={val: 20}"]


def test_cifar10_by_recipe(tiny: Tiny, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    recipe = tiny(*CIFAR10, f"data.root={tmp_path}")
    data = load_data(recipe)
    assert len(data.val) == 20
    net = build_net(recipe, data)
    images, _ = next(iter(Loader(data.train, 8, torch.Generator())))
    assert net(images).shape == (8, 10)


def test_what_is_wrong_with_the_data_is_an_error_of_the_input(tiny: Tiny, tmp_path: Path) -> None:
    for overrides, text in ((CIFAR10, "'root'"), ([*CIFAR10, f"data.root={tmp_path}"], "found nothing")):
        with pytest.raises(InputError, match=text) as caught:
            load_data(tiny(*overrides))
        assert caught.value.exit_code == 2


def test_the_data_set_is_loaded_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    def counted(**options: Any) -> Any:
        loads.append(options)
        return load_dataset("synthetic", shape=[1, 16, 16], train=24, val=20)

    monkeypatch.setitem(DATASETS, "digits", counted)
    recipe = tiny()
    data = load_data(recipe)
    build_net(recipe, data)
    build_supernet(recipe, data)
    assert loads == [{"train": 24, "val": 20}]
    build_net(recipe)
    assert len(loads) == 2


def test_root_is_for_data_sets_with_files(tiny: Tiny, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    assert len(load_data(tiny(*CIFAR10, f"data.options.root={tmp_path}")).val) == 20
    with pytest.raises(InputError, match=r"digits.*'root'"):
        load_data(tiny(f"data.root={tmp_path}"))


def test_images_too_small_for_the_network(tiny: Tiny) -> None:
    recipe = tiny("data.name=synthetic", "data.options={shape: [3, 1, 1]}")
    with pytest.raises(RecipeError, match="1x1"):
        build_net(recipe, load_data(recipe))


class Pair(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.backbone, self.other = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x) + self.other(x)


def test_an_architecture_of_a_part_of_the_network(tiny: Tiny) -> None:
    recipe = tiny()
    alone = with_branches(Pair(build_net(recipe), nn.Flatten()), SOME)
    assert isinstance(alone.get_submodule("backbone.stages.0.0.conv"), RepBlock)
    both = Pair(build_net(recipe), build_net(recipe))
    with pytest.raises(InputError, match=r"several parts of the network: backbone, other.*where=NAME"):
        with_branches(both, SOME)
    chosen = with_branches(both, SOME, where="other")
    blocks = [name for name, module in chosen.named_modules() if isinstance(module, RepBlock)]
    assert blocks and all(name.startswith("other.") for name in blocks)
    with pytest.raises(
        RecipeError, match=r"to another network: the recipe's network has no layer 'stages\.0\.0\.conv'"
    ):
        with_branches(nn.Conv2d(1, 1, 3), SOME)


def test_published_architectures_go_by_name(tmp_path: Path) -> None:
    published = architecture_of("irep-resnet18")
    assert published is not None and published.count == 57
    published.save(tmp_path / "a.json")
    assert architecture_of(tmp_path / "a.json") == architecture_of(published) == published
    assert architecture_of(None) is None
