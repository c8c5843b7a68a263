"""The paper's tables as data; every row must be a network of the registry."""

from __future__ import annotations

import pytest

from irepdeploy.bench.suites.published import CARS, NAS, PLAIN, REP, TABLE2, TABLE3, PaperRow
from irepdeploy.bench.suites.variants import FOLDED, FUSED, KEPT, variants
from irepdeploy.network.nets import NETS

ROWS = (*TABLE2, *TABLE3, *CARS)


def test_every_system_is_there() -> None:
    assert len(TABLE2) == 12
    assert len(TABLE3) == 16
    assert {row.family for row in ROWS} == {PLAIN, REP, NAS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.label}-{row.net}")
def test_every_row_is_a_network_of_the_registry(row: PaperRow) -> None:
    net = NETS[row.net]
    assert net.input_shape == ((3, 32, 32) if row in TABLE2 else (3, 224, 224))
    assert (net.branches is not None) == (row.family == REP)


def test_slips_of_the_paper_are_noted() -> None:
    slips = {row.label for row in TABLE2 if row.params_m == 11.69}
    assert slips == {"ResNet-18", "RepNAS (VGG)", "IrepResNet-18"}
    assert all(row.notes for row in TABLE2 if row.label in slips)


def test_plain_and_nas_networks_stand_twice() -> None:
    found = [(each.row.label, each.state, each.published) for each in variants(TABLE2)]
    assert ("VGG", KEPT, True) in found and ("VGG", FOLDED, False) in found
    assert ("DARTS (second)", KEPT, True) in found and ("DARTS (second)", FOLDED, False) in found
    assert [state for label, state, _ in found if label == "RepVGG"] == [FUSED]


def test_labels_are_unique() -> None:
    labels = [each.label for each in (*variants(TABLE3), *variants(CARS))]
    assert len(set(labels)) == len(labels)
