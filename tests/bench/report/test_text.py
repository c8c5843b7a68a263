from __future__ import annotations

import csv
import io
from collections.abc import Callable

from irepdeploy.bench.report.devices import comparisons_of
from irepdeploy.bench.report.tables import tables_of
from irepdeploy.bench.report.text import csv_text, markdown_grid, markdown_text, row_json
from irepdeploy.board.protocol import ratio, summary
from irepdeploy.runs.record import Record

Make = Callable[..., Record]


def test_csv_has_every_row_with_its_figures(records_of_table3: list[Record], records_of_table2: list[Record]) -> None:
    tables = tables_of([*records_of_table3, *records_of_table2])
    lines = list(csv.DictReader(io.StringIO(csv_text(tables))))
    assert len(lines) == 28
    record = records_of_table3[3]
    line = next(line for line in lines if (line["model"], line["runner"]) == (record.model, "torch"))
    numbers = summary(record.samples_ns)
    assert float(line["median_ms"]) == numbers.median_ms
    assert float(line["p90_ms"]) == numbers.p90_ms and line["p99_ms"] == ""
    found = ratio(record.samples_ns, records_of_table3[0].samples_ns, 0)
    assert (float(line["ratio"]), float(line["ratio_low"])) == (found.value, found.low)
    assert (line["paper_ms"], line["top1_percent"], line["top1_source"]) == ("6.12", "73.31", "paper, not measured")


def test_a_spreadsheet_takes_no_name_for_a_formula(make_record: Make) -> None:
    names = ["=1+1", "+1", "-1", "@x", "plain"]
    lines = list(csv.DictReader(io.StringIO(csv_text(tables_of([make_record(name) for name in names])))))
    assert [line["model"] for line in lines] == ["'=1+1", "'+1", "'-1", "'@x", "plain"]
    # A negative number is not a formula and stays unchanged.
    assert csv_text([]) == ""


def test_markdown_is_the_same_tables(records_of_table3: list[Record]) -> None:
    tables = tables_of(records_of_table3)
    text = markdown_text("Report", ["a note"], tables, comparisons_of(tables))
    assert text.startswith("# Report\n\n- a note\n\n## AMD EPYC, 2 cores, 24 GiB, protocol version 2\n\n### table3, ")
    assert text.count("**Table ") == 3
    assert "| ResNet-34 | 21.80 | 3664 | 97.75 |" in text
    assert "| P-DARTS (unsteady) |" in text
    assert "## Differences between devices" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    # On the GPU there are enough samples for an additional column.
    assert set(widths) == {12, 13, 4}


def test_markdown_shows_names_as_they_are() -> None:
    hostile = ["a|b", "<img src=x>", "[x](http://example.invalid)", "*x*", "`x`", "a\nb", "&lt;"]
    text = markdown_grid(["model"], [[name] for name in hostile], [True])
    lines = text.splitlines()[2:]
    assert lines == [
        "| a\\|b |",
        "| &lt;img src=x&gt; |",
        "| [x]\\(http://example.invalid) |",
        "| \\*x\\* |",
        "| \\`x\\` |",
        "| a b |",
        "| &amp;lt; |",
    ]


def test_a_row_as_json_says_what_is_not_known(make_record: Make) -> None:
    (table,) = tables_of([make_record("a", samples=10)])
    row = row_json(table, table.rows[0])
    assert [row[key] for key in ("p90_ms", "p99_ms", "ratio_low", "paper_ms", "top1_percent", "params")] == [None] * 6
    assert (row["ratio"], row["n"], row["input_shape"]) == (1.0, 10, "1x3x224x224")
