from __future__ import annotations

from pathlib import Path

import pytest

from irepdeploy.bench.suites.table4 import ROWS, table4
from irepdeploy.console import progress
from irepdeploy.errors import InputError, MissingError
from irepdeploy.network.nets import NETS
from irepdeploy.parsing.json_lines import read_lines
from irepdeploy.runs.suite import SuiteRequest


def test_three_forms_are_measured_on_small_detectors(tmp_path: Path) -> None:
    with progress(silent=True) as display:
        report = table4(SuiteRequest(scale="smoke", out=tmp_path, seconds=0.0), display)
    plain, branched = (dict(zip(report.columns, row, strict=True)) for row in report.rows)
    assert plain["params M train"] == plain["fused"] == branched["fused"] == "0.14"
    assert float(branched["params M train"]) > 0.14 and plain["GMACs"] == branched["GMACs"] != "-"
    assert plain["ms train state"] == plain["ms fused"] == "-" and plain["ms plain"] == branched["ms plain"]
    assert all(float(branched[name]) > 0 for name in ("ms train state", "ms fused", "ms plain"))
    lines = read_lines(tmp_path / "records.jsonl", lambda value, where: value, "file of records", of="record").values
    assert len(lines) == 3


def test_the_scale_of_the_paper_says_what_is_missing() -> None:
    with (
        pytest.raises(MissingError, match=r"needs COCO 2017 .* and an A100") as raised,
        progress(silent=True) as display,
    ):
        table4(SuiteRequest(scale="paper"), display)
    assert raised.value.exit_code == 3
    with pytest.raises(InputError, match="it takes no models of yours"), progress(silent=True) as display:
        table4(SuiteRequest(models=("x.pt",)), display)


def test_every_row_is_a_network() -> None:
    assert {name for row in ROWS for name in (row.net, row.plain)} <= set(NETS)
    assert [row.published for row in ROWS] == [29.5, 31.2, 37.9, 38.1, 38.2]
