from __future__ import annotations

from pathlib import Path

from irepdeploy.bench.report.gather import gather
from irepdeploy.bench.report.others import plain_tables

RECORDS = Path(__file__).parents[3] / "bench" / "records"


def test_samples_by_name_are_a_table() -> None:
    line = {
        "suite": "table1",
        "scale": "small",
        "network": "vgg16",
        "device": "cpu",
        "created": "2026-11-23T17:10:03+00:00",
        "candidates_per_round": 8,
        "conditions": {"batch": 64},
        "samples_ns": {"naive": [3_000_000_000, 1_000_000_000, 2_000_000_000], "deep": {"fused": [500_000_000]}},
    }
    (table,), left = plain_tables([line])
    assert left == []
    assert (table.title, table.where) == ("table1, vgg16", "scale small, cpu, 2026-11-23 17:10")
    assert table.rows == (("naive", "2.00", "3"), ("deep, fused", "0.500", "1"))
    # The work per sample differs between them, so it must be shown, and no ratio.
    assert table.conditions == "candidates per round 8; batch 64"
    assert [words for _, words in table.heads][:2] == [True, False]


def test_figures_of_one_suite_are_one_table() -> None:
    lines = [{"suite": "table5", "scale": "smoke", "budget": budget, "test": 0.5 + budget} for budget in (1, 2)]
    (table,), _ = plain_tables([*lines, {"suite": "table5", "scale": "small", "budget": 9, "test": 1}][:2])
    assert (table.columns, table.rows) == (("budget", "test"), (("1", "1.5"), ("2", "2.5")))


def test_what_has_neither_is_named() -> None:
    tables, left = plain_tables(
        [{"suite": "x", "runs": [1]}, {"suite": "x"}, {"benchmark": "y", "samples_ns": {"a": []}}]
    )
    assert (tables, left) == ([], ["x", "y"])


def test_samples_that_are_none_are_not_shown() -> None:
    tables, left = plain_tables(
        [{"suite": "x", "samples_ns": {"a": [0], "b": [1.5], "c": [10**30], "d": "e", "f": [True]}}]
    )
    assert (tables, left) == ([], ["x"])


def test_committed_records_are_shown_or_named() -> None:
    found = gather([RECORDS])
    tables, left = plain_tables(found.others)
    assert found.notes == []
    assert {table.title for table in tables} >= {"table1, vgg16", "supernet-step, vgg16"}
    assert len(tables) + len(left) >= 5
