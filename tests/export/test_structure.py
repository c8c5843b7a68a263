"""Networks that are one graph once fused have one digest; others do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import irepdeploy as ird
from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.pipeline import export_model
from irepdeploy.export.structure import network_digest
from irepdeploy.onnx_graph.structure_digest import structure_digest
from irepdeploy.reparam.fold import folded
from support.networks import random_network

VGG16 = ("repvgg_vgg16", "repnas_vgg16", "acnet_vgg16", "dbb_vgg16", "dyrep_vgg16", "irep_vgg16")


def test_the_vgg16_of_table_2_are_one_graph() -> None:
    expected = network_digest("vgg16")
    for name in VGG16:
        assert network_digest(name) == expected, name
    assert network_digest("vgg16_acnet") != expected
    assert network_digest("vgg16", batch=2) != expected != network_digest("vgg16", batch=None)


@pytest.mark.parametrize("plain", ["resnet18", pytest.param("resnet34", marks=pytest.mark.slow), "resnet50"])
def test_the_resnets_of_table_3_are_one_graph_each(plain: str) -> None:
    expected = network_digest(plain)
    for family in ("irep", "dbb", "dyrep", "acnet"):
        assert network_digest(f"{family}_{plain}") == expected, family


def test_networks_of_cells_are_told_apart() -> None:
    names = ("cars_lat_a", "cars_lat_b")
    assert len({network_digest(name) for name in names}) == len(names)


def test_of_a_file_of_a_network_and_of_its_name_alike(tmp_path: Path) -> None:
    net = random_network("vgg6", "ireps", seed=3)
    expected = network_digest("vgg6")
    checkpoint = ird.save(net, tmp_path / "net.pt")
    assert network_digest(net) == network_digest(ird.fuse(net)) == network_digest(checkpoint) == expected
    assert network_digest(folded(random_network("vgg6"))) == expected
    export_model(net, tmp_path / "out")
    assert structure_digest(tmp_path / "out" / "model.onnx") == expected


def test_what_has_none() -> None:
    with pytest.raises(ModelError, match="does not say what inputs"):
        network_digest(nn.Sequential(nn.Conv2d(1, 1, 1)).eval())
    with pytest.raises(InputError, match="did you mean vgg6 or vgg16"):
        network_digest("vgg61")
