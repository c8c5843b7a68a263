"""Networks with the same fused graph have the same digest; others do not."""

from __future__ import annotations

import functools
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

VGG16 = ("repvgg", "repnas", "acnet", "dbb", "dyrep", "irep")
RESNET = ("irep", "dbb", "dyrep", "acnet")
TABLES = {"vgg16": VGG16, "resnet18": RESNET, "resnet34": RESNET, "resnet50": RESNET}
# One network of each table; all others run in nightly.
FAST = {"acnet_vgg16", "dbb_resnet18"}
plain_digest = functools.cache(network_digest)


@pytest.mark.parametrize(
    ("family", "plain"),
    [
        pytest.param(family, plain, marks=() if f"{family}_{plain}" in FAST else pytest.mark.slow)
        for plain, families in TABLES.items()
        for family in families
    ],
)
def test_the_networks_of_tables_2_and_3_are_one_graph_each(family: str, plain: str) -> None:
    assert network_digest(f"{family}_{plain}") == plain_digest(plain)


def test_other_networks_and_batches_differ() -> None:
    assert network_digest("vgg16_acnet") != plain_digest("vgg16")
    assert len({network_digest("vgg6", batch=batch) for batch in (1, 2, None)}) == 3


@pytest.mark.slow
def test_networks_of_cells_differ() -> None:
    names = ("cars_lat_a", "cars_lat_b")
    assert len({network_digest(name) for name in names}) == len(names)


def test_of_a_file_of_a_network_and_of_its_name_alike(tmp_path: Path) -> None:
    net = random_network("vgg6", "ireps", seed=3)
    expected = network_digest("vgg6")
    checkpoint = ird.save(net, tmp_path / "net.pt")
    assert network_digest(net) == network_digest(ird.fuse(net)) == network_digest(checkpoint) == expected
    assert network_digest(folded(random_network("vgg6"))) == expected
    export_model(net, tmp_path / "out", simplify=False)
    assert structure_digest(tmp_path / "out" / "model.onnx") == expected


def test_what_has_none() -> None:
    with pytest.raises(ModelError, match="does not say what inputs"):
        network_digest(nn.Sequential(nn.Conv2d(1, 1, 1)).eval())
    with pytest.raises(InputError, match="did you mean vgg6 or vgg16"):
        network_digest("vgg61")
