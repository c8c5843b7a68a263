from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from irepdeploy.bench.report.tables import tables_of
from irepdeploy.board.protocol import ratio, summary
from irepdeploy.runs.record import Record

Make = Callable[..., Record]


def titles(records: list[Record]) -> list[str]:
    return [f"{table.device}: {table.title}" for table in tables_of(records)]


def test_devices_runners_and_suites_stand_apart(
    records_of_table3: list[Record], records_of_table2: list[Record]
) -> None:
    tables = tables_of([*records_of_table3, *records_of_table2])
    places = [(table.device, table.suite, table.runner, len(table.rows)) for table in tables]
    cpu, gpu = "AMD EPYC, 2 cores, 24 GiB", "NVIDIA H200"
    assert places == [
        (cpu, "table3", "torch", 8),
        (cpu, "table3", "ort-cpu", 8),
        (cpu, "table2", "torch", 4),
        (gpu, "table3", "torch", 8),
    ]
    assert [table.number for table in tables] == [1, 2, 3, 4]


def test_protocol_versions_never_meet(make_record: Make) -> None:
    records = [make_record("a", protocol_version=1), make_record("a", protocol_version=2), make_record("b")]
    tables = tables_of(records)
    assert [(table.protocol, [row.model for row in table.rows]) for table in tables] == [(2, ["a", "b"]), (1, ["a"])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"precision": "fp16"}, "torch, fp16"),
        ({"scenario": "offline"}, "input 3\N{MULTIPLICATION SIGN}224"),
        ({"input_shape": [1, 3, 32, 32]}, "32"),
        ({"conditions": {"tf32": "on"}}, "tf32 on"),
        ({"runner": {"runner": "torch", "device": "cpu", "threads": 2}}, "threads 2"),
        ({"runner": {"runner": "torch", "device": "cpu", "threads": 1, "transfers": "in and out"}}, "in and out"),
        # An unknown condition also splits models that were measured under both values.
        ({"runner": {"runner": "torch", "device": "cpu", "threads": 1, "moon": "full"}}, "moon full"),
    ],
)
def test_what_was_measured_under_other_conditions_stands_apart(
    make_record: Make, change: dict[str, Any], said: str
) -> None:
    plain = make_record("a", runner={"runner": "torch", "device": "cpu", "threads": 1}, conditions={})
    found = titles([plain, replace(plain, **change)])
    assert len(found) == 2
    assert said in found[1]


def test_what_belongs_to_a_model_splits_nothing(make_record: Make) -> None:
    runner = {"runner": "torch", "device": "cpu", "threads": 1}
    records = [make_record("a", runner={**runner, "layout": "x"}), make_record("b", runner={**runner, "layout": "y"})]
    (table,) = tables_of(records)
    assert dict(table.conditions) == {"threads": "1"}


@pytest.mark.parametrize(
    ("system", "device"),
    [
        ({}, "unknown device"),
        ({"cpu": "none", "gpu": {}, "memory": 3}, "unknown device"),
        ({"cpu": {"model": "unknown", "machine": "aarch64", "logical_cores": 6}}, "unknown aarch64 processor, 6 cores"),
        ({"cpu": {"model": "A", "logical_cores": 1, "governor": "powersave"}}, "A, 1 core, governor powersave"),
        ({"board": "Xavier NX", "power_mode": "15W", "gpu": [{"name": "GV11B"}]}, "Xavier NX, 15W"),
        # The GPU of a machine is not named for models that ran on its CPU.
        ({"cpu": {"model": "A"}, "gpu": [{"name": "H200"}]}, "A"),
    ],
)
def test_a_device_is_named_by_what_is_known_of_it(make_record: Make, system: dict[str, Any], device: str) -> None:
    assert tables_of([make_record(system=system)])[0].device == device


def test_rows_are_what_the_protocol_makes_of_the_samples(records_of_table3: list[Record]) -> None:
    (table, *_) = tables_of(records_of_table3)
    reference = table.rows[0].record
    for row in table.rows:
        assert row.summary == summary(row.record.samples_ns)
        assert row.paired
        expected = None if row.record is reference else ratio(row.record.samples_ns, reference.samples_ns, 0)
        assert row.ratio == expected
    assert [row.paper_ratio for row in table.rows[:2]] == [1.0, pytest.approx(6.12 / 4.25)]
    assert [row.model for row in table.rows if not row.steady] == ["P-DARTS"]


def test_each_run_has_its_own_reference(make_record: Make) -> None:
    first = [make_record("a", 10.0, created="1"), make_record("b", 20.0, seed=1, created="1")]
    second = [make_record("b", 40.0, seed=2, created="2"), make_record("a", 20.0, seed=3, created="2")]
    third = [make_record("b", 30.0, seed=4, created="3")]
    (table,) = tables_of([*first, *second, *third])
    found = {row.record.created + row.model: (row.reference.created, row.paired) for row in table.rows}
    assert found["1b"] == ("1", True) and found["2b"] == ("2", True)
    # The third run lacks the reference and is compared with that of the first run, whose samples are from other rounds.
    assert found["3b"] == ("1", False)
    values = {row.record.created: row.ratio.value for row in table.rows if row.model == "b" and row.ratio}
    assert values == {key: pytest.approx(value, rel=0.02) for key, value in {"1": 2, "2": 2, "3": 3}.items()}


def test_a_batch_is_held_against_the_same_batch(make_record: Make) -> None:
    changes = {"scenario": "offline", "created": "1"}
    records = [
        make_record(model, ms, seed=seed, batch=batch, input_shape=[batch, 3, 8, 8], **changes)
        for seed, (model, batch, ms) in enumerate([("a", 1, 1), ("a", 8, 4), ("b", 1, 2), ("b", 8, 12)])
    ]
    (table,) = tables_of(records)
    found = [(row.model, row.record.batch, row.reference.batch, row.ratio and row.ratio.value) for row in table.rows]
    assert found == [
        ("a", 1, 1, None),
        ("a", 8, 8, None),
        ("b", 1, 1, pytest.approx(2, rel=0.02)),
        ("b", 8, 8, pytest.approx(3, rel=0.02)),
    ]
    assert table.rows[3].images_per_second == pytest.approx(8 / 0.012, rel=0.02)


def test_one_graph_stands_under_all_its_names(records_of_table2: list[Record]) -> None:
    (table,) = tables_of(records_of_table2)
    assert [row.model for row in table.rows] == [
        "VGG, BN folded", "RepVGG, fused", "IrepVGG-16, fused", "DARTS, BN folded",
    ]  # fmt: skip
    assert [row.measured for row in table.rows] == [True, False, False, True]
    assert len(table.records) == 2
    assert [row.top1 for row in table.rows] == [94.12, 94.62, 95.65, 97.24]
    # The paper's latency of the reference graph is listed under another of its names.
    assert [row.paper_ratio for row in table.rows] == [None, 1.0, 1.0, pytest.approx(31 / 1.76)]


def test_a_suite_may_name_its_reference(records_of_table2: list[Record], make_record: Make) -> None:
    named = "IrepVGG-16, fused"
    own = make_record("mine", 19.0, seed=2, suite="table2", input_shape=[1, 3, 32, 32])
    suite = [replace(record, facts={**record.facts, "reference": named}) for record in records_of_table2]
    (table,) = tables_of([own, suite[1], suite[0]])
    assert table.reference.model == named
    assert {row.model: row.ratio and round(row.ratio.value, 1) for row in table.rows} == {
        "mine": 2.0, "DARTS, BN folded": 1.9, "VGG, BN folded": None, "RepVGG, fused": None, named: None,
    }  # fmt: skip
    assert [row.paper_ratio for row in table.rows][:2] == [None, pytest.approx(31 / 1.76)]
    # A reference that no row has is ignored.
    (table,) = tables_of([replace(own, facts={"reference": "nobody"}), *suite[1:]])
    assert table.reference.model == "mine"


@pytest.mark.parametrize(
    "facts",
    [
        {"top1": "high", "paper_ms": "fast", "params": [], "notes": 3, "family": {}, "names": "x", "rows": 7},
        {"top1": True, "paper_ms": 0, "params": 10**400, "rows": [], "names": None},
        {"top1": 1e400, "paper_ms": -3, "rows": [{"top1": 3}], "top1_source": 5},
        {"rows": ["x"], "names": [["y"], {}, None]},
    ],
)
def test_facts_that_make_no_sense_are_ignored(make_record: Make, facts: dict[str, Any]) -> None:
    (row,) = tables_of([make_record("a", facts=facts)])[0].rows
    assert (row.model, row.top1, row.paper_ms, row.paper_ratio) == ("a", None, None, None)
    assert (row.fact("params"), row.family, row.top1_source) == (None, "", "")


@pytest.mark.parametrize(
    ("after", "said"),
    [({}, ""), ({"throttling": "none"}, ""), ({"throttling": False}, ""), ({"throttling": True}, "yes"),
     ({"throttling": "thermal"}, "thermal"), ({"throttling": "unknown"}, "")],
)  # fmt: skip
def test_throttling_is_reported_where_it_is_known(make_record: Make, after: dict[str, Any], said: str) -> None:
    assert tables_of([make_record(system_after=after)])[0].rows[0].throttled == said
