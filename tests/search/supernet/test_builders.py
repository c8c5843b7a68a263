"""How a recipe's data become a data set and a network for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from irepdeploy.data import DATASETS, Loader, load_dataset
from irepdeploy.errors import InputError, RecipeError
from irepdeploy.search.supernet.builders import build_net, build_supernet, load_data
from support.dataset_files import write_cifar10
from support.tiny import Tiny

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
