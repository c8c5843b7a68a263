"""Cells of a protocol without training: scoring a population again, and timing the scoring."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.errors import InputError
from irepdeploy.reparam.fuse import fuse
from irepdeploy.runs.reproduction import (
    MEASUREMENTS,
    RECORDS,
    RescoredPopulation,
    TimedPopulation,
    append_cell,
    read_cells,
    read_measured,
)
from irepdeploy.search.engine import Search
from irepdeploy.search.evaluation.fitness import score
from irepdeploy.search.evaluation.recalibration import recalibrate
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.reproduction import measure
from irepdeploy.search.reproduction import run as run_module
from irepdeploy.search.reproduction.cells import Cell, cells_of
from irepdeploy.search.reproduction.measure import rescored
from irepdeploy.search.reproduction.measured_tables import noise_table, timing_table
from irepdeploy.search.reproduction.protocol import ARMS, PROTOCOLS, RANKED, Protocol
from irepdeploy.search.reproduction.run import measured_in, records_in, run_cells
from irepdeploy.search.reproduction.tables import tables_of
from irepdeploy.search.supernet.batches import batches_of
from irepdeploy.search.supernet.builders import build_net, with_branches
from support.tiny import Searched, Tiny

FASHION = PROTOCOLS["fashion-mnist"]


@pytest.fixture
def protocol() -> Protocol:
    smoke = FASHION.smoke
    overrides = ("scale=smoke", "net.args.stages=[[4, 4], [6]]")
    return replace(smoke, networks=(replace(smoke.networks[0], overrides=overrides),), seeds=(0,))


@pytest.fixture
def search(tiny: Tiny, searched: Searched, tmp_path: Path) -> Search:
    """A finished search, in a folder of its own."""
    folder = tmp_path / "search"
    shutil.copytree(searched[0], folder)
    found = Search(tiny("search.evolutions=1"), folder, resume=True, ranks=Ranks.alone())
    found.run()
    return found


def scoring_cell(protocol: Protocol) -> Cell:
    return Cell(protocol, protocol.networks[0], protocol.main, ARMS[RANKED], "scoring", 0)


def test_a_population_is_scored_on_halves_and_with_statistics_of_its_own(
    search: Search, searched: Searched, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "BATCHES", 2)
    monkeypatch.setattr(measure, "RECALIBRATIONS", 2)
    before = {name: value.clone() for name, value in search.supernet.model.state_dict().items()}
    found = rescored(scoring_cell(protocol), search, lambda note: None)
    assert all(torch.equal(before[name], value) for name, value in search.supernet.model.state_dict().items())
    assert found.whole == tuple((each.value, each.negative_loss) for each in searched[1].fitnesses)
    assert found.images == 20 and len(found.halves) == 10 and len(found.recalibrated) == 2
    # Of an even number of images the mean of both halves is the whole.
    for split in found.halves:
        assert np.mean(split, axis=0) == pytest.approx(np.array(found.whole), abs=1e-6)
    assert len({split[0] for split in found.halves}) == 10 and len(set(found.recalibrated)) == 2
    # By hand: the best candidate as a network of its own, with the statistics of the first two batches.
    best = searched[1].population[0]
    net = with_branches(build_net(search.recipe), best)
    net.load_state_dict({name: before[name] for name in net.state_dict()})
    order = torch.Generator().manual_seed(1)
    loader = batches_of(search.data, 12, order, search.settings.augment, None, torch.device("cpu"))
    by_hand = score(fuse(recalibrate(net, [images for images, _ in loader][:2]), prove=False), search.data.val)
    assert found.recalibrated[0][0] == pytest.approx((by_hand.value, by_hand.negative_loss), abs=1e-5)


def test_measurements_are_made_once_beside_the_records(
    protocol: Protocol, search: Search, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_module, "_searched", lambda *_: (search, None))
    monkeypatch.setattr(measure, "RECALIBRATIONS", 2)
    cells = [scoring_cell(protocol), *cells_of(protocol, ["1"], protocol.networks)]
    assert [cell.stage for cell in cells] == ["scoring", "timing"]
    (tmp_path / "job-1-of-1").mkdir()
    for expected in (2, 0):
        outcome = run_cells(cells, tmp_path, tmp_path / "job-1-of-1", ranks=Ranks.alone())
        assert (outcome.made, outcome.waiting) == (expected, ())
    assert records_in(tmp_path) == {} and not (tmp_path / "job-1-of-1" / RECORDS).exists()
    measured = measured_in(tmp_path)
    assert set(measured) == {cell.key for cell in cells}
    timing = measured[cells[1].key]
    assert isinstance(timing, TimedPopulation)
    # The smoke scale has 3 candidates, of which a round takes 2.
    assert (timing.population, timing.images, timing.chunk) == (2, 16, 2)
    assert {"naive", "fused"} <= set(timing.samples_ns) and len(timing.fuse_ns) == 1
    titles = [table.title for table in tables_of(protocol, {}, ["search", "1"], protocol.networks, measured)]
    assert [title.partition("?")[0] for title in titles] == [
        "What does scoring noise do to the choice", "Table 1: how long does a population take",
    ]  # fmt: skip
    assert tables_of(protocol, {}, ["2"], protocol.networks, measured) == []
    newer = replace(protocol, version=protocol.version + 1)
    assert tables_of(newer, {}, ["search", "1"], protocol.networks, measured) == []


def facts(stage: str) -> dict[str, Any]:
    return {
        "protocol": "p", "version": 2, "cell": f"p: {stage}", "stage": stage, "network": "n", "condition": "c",
        "arm": "a", "place": 0, "seed": 0, "recipe": {}, "created": "now", "system": {},
    }  # fmt: skip


def test_the_noise_by_hand() -> None:
    def scores(*values: float) -> tuple[tuple[float, float], ...]:
        return tuple((value, -1.0) for value in values)

    whole, turned = scores(0.8, 0.7, 0.6), scores(0.6, 0.7, 0.8)
    found = RescoredPopulation(
        **facts("scoring"), images=100, batches=8, whole=whole, halves=((whole, turned), (whole, whole)),
        recalibrated=(whole, whole, scores(0.8, 0.7, 0.7)),
    )  # fmt: skip
    table = noise_table(found, {0: 0.9, 1: 0.91})
    halves, statistics = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    # Of 80, 60, 80, 80; four times 70; 60, 80, 60, 60: deviations 10, 0 and 10; means 75, 70, 65.
    assert (halves["scorings"], halves["noise"], halves["spread of candidates"]) == ("4", "6.67", "5.00")
    # Tau of -1 and 1.
    assert (halves["another best"], halves["tau"]) == ("1 of 4", "+0.00")
    # Of pairs 1, and twice sqrt(2/3), where two candidates are alike.
    assert (statistics["scorings"], statistics["another best"], statistics["tau"]) == ("3", "0 of 3", "+0.88")
    assert "standard deviation of 10.00 points" in table.notes[0] and "0.71 points" in table.notes[-1]
    assert "None of these candidates was retrained" in noise_table(found, {}).notes[-1]


def test_the_loss_tells_equal_candidates_apart() -> None:
    one, other = ((0.5, -1.0), (0.5, -0.9)), ((0.5, -0.9), (0.5, -1.0))
    found = RescoredPopulation(
        **facts("scoring"), images=10, batches=1, whole=one, halves=((one, other),), recalibrated=(one, one)
    )
    halves, statistics = noise_table(found, {}).rows
    assert (halves[4], halves[5]) == ("1 of 2", "-1.00") and (statistics[4], statistics[5]) == ("0 of 2", "+1.00")


def test_the_time_by_hand() -> None:
    found = TimedPopulation(
        **facts("timing"), population=4, images=5000, batch=200, naive_batch=256, chunk=2, naive_chunk=1,
        samples_ns={"naive": (10**9, 10**9), "fused": (10**9, 10**9)}, fuse_ns=(4 * 10**8, 4 * 10**8),
    )  # fmt: skip
    naive, fused = timing_table(found).rows
    assert naive == ("naive", "1.000", "4.0", "1", "-")
    # Half a second for each of two candidates, and a quarter of the fuse.
    assert fused[:4] == ("fused", "0.600", "2.4", "1.67")


def test_records_of_both_kinds_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / MEASUREMENTS
    found = TimedPopulation(
        **facts("timing"), population=4, images=5, batch=2, naive_batch=2, chunk=2, naive_chunk=1,
        samples_ns={"naive": (1,)}, fuse_ns=(1,),
    )  # fmt: skip
    append_cell(path, found)
    assert read_measured([path]) == {found.cell: found} and read_cells([path]) == {}
    append_cell(tmp_path / "bad.jsonl", found.model_copy(update={"fuse_ns": ()}))
    with pytest.raises(InputError, match="fuse_ns"):
        read_measured([tmp_path / "bad.jsonl"])
