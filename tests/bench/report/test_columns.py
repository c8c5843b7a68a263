from __future__ import annotations

from collections.abc import Callable

import pytest

from irepdeploy.bench.report.columns import Column, columns_of, digits, interval_text
from irepdeploy.bench.report.tables import tables_of
from irepdeploy.board.protocol import Ratio
from irepdeploy.runs.record import Record

Make = Callable[..., Record]


def columns(records: list[Record]) -> dict[str, Column]:
    return {column.key: column for column in columns_of(tables_of(records)[0])}


@pytest.mark.parametrize(("samples", "p90", "p99"), [(63, False, False), (64, True, False), (662, True, True)])
def test_percentiles_only_from_enough_samples(make_record: Make, samples: int, p90: bool, p99: bool) -> None:
    assert (("p90" in columns([make_record(samples=samples)])), "p99" in columns([make_record(samples=samples)])) == (
        p90,
        p99,
    )


def test_a_row_with_too_few_samples_says_so_beside_one_with_enough(make_record: Make) -> None:
    found = columns([make_record("a", samples=700), make_record("b", samples=100), make_record("c", samples=10)])
    assert found["p90"].cells[2] == "n < 64" and found["p90"].values[2] is None
    assert found["p99"].cells[1:] == ("n < 662", "n < 662")
    assert found["n"].cells == ("700", "100", "10")


def test_columns_without_anything_to_say_are_left_out(make_record: Make, records_of_table3: list[Record]) -> None:
    assert list(columns([make_record(samples=70)])) == ["model", "median", "p90", "spread", "n"]
    assert list(columns(records_of_table3)) == [
        "model", "params", "macs", "median", "p90", "spread", "ratio", "paper", "paper-ratio", "top1", "n",
    ]  # fmt: skip


def test_figures_stand_as_they_are(records_of_table3: list[Record]) -> None:
    found = columns(records_of_table3)
    assert found["params"].cells[0] == "11.69" and found["macs"].cells[0] == "1814"
    # As printed: no digits are added to the paper's figures.
    assert found["paper"].cells[:2] == ("4.25", "6.12") and found["paper"].cells[5] == "67.4"
    assert found["top1"].head == "top-1, % (paper, not measured)"
    assert found["ratio"].cells[0] == "1" and found["ratio"].cells[1].startswith("1.95 [")


def test_where_accuracies_come_from_stands_beside_them_where_they_differ(make_record: Make) -> None:
    sources = {"a": "paper, not measured", "b": "result.json"}
    records = [make_record(name, facts={"top1": 70.0, "top1_source": source}) for name, source in sources.items()]
    found = columns(records)
    assert found["top1"].head == "top-1, %"
    assert found["top1-source"].cells == ("paper, not measured", "result.json")


def test_clocks_power_and_runs(make_record: Make) -> None:
    both = {"device_samples_ns": [2_000_000] * 80, "power": {"energy_mj_per_inference": 41.25}}
    found = columns([make_record("a", **both), make_record("b", created="2026-11-25T08:09:10+00:00")])
    assert found["device"].cells == ("2.000", "\N{EN DASH}")
    assert found["energy"].cells[0] == "41.2"
    assert found["run"].cells == ("2026-11-23 11:26", "2026-11-25 08:09")
    assert found["ratio"].cells[1].endswith("*")


def test_rows_of_one_graph_have_its_number(records_of_table2: list[Record]) -> None:
    assert columns(records_of_table2)["graph"].cells == ("1", "1", "1", "")


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.0, "1.00"), (9.996, "10.00"), (12.34, "12.3"), (123456.0, "123456")]
)
def test_three_digits_are_enough(value: float, text: str) -> None:
    assert digits(value) == text


def test_an_interval_has_one_number_of_decimals() -> None:
    assert interval_text(None) == "1"
    assert interval_text(Ratio(1.0004, 0.9972, 1.003)) == "1.000 [0.997, 1.003]"
    assert interval_text(Ratio(2.5, None, None)) == "2.50"
