from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.suites.table4 import ROWS, table4
from irepdeploy.console import progress
from irepdeploy.errors import InputError, MissingError
from irepdeploy.network.checkpoint import save
from irepdeploy.network.nets import NETS, build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.parsing.json_lines import read_lines
from irepdeploy.runs.result import TrainingResult
from irepdeploy.runs.schema import MetricFacts
from irepdeploy.runs.suite import SuiteRequest


def test_three_forms_are_measured_on_small_detectors(tmp_path: Path) -> None:
    net = randomize_statistics(build("centernet_vgg6", branches="acnet", input_shape=(1, 32, 48))).eval()
    save(net, tmp_path / "best.pt")
    sets: dict[str, Any] = {"val_accuracy": 0.5, "test_accuracy": 0.4321, "best_epoch": 1, "epochs": 1}
    times: dict[str, Any] = {"seconds_per_epoch": 1.0, "seconds": 1.0, "device": "cpu", "devices": 1}
    result = TrainingResult(branches=8, metric=MetricFacts(name="AP", unit="%"), **sets, **times)
    result.write(tmp_path / "result.json")
    models = (f"mine={tmp_path / 'best.pt'}",)
    with progress(silent=True) as display:
        report = table4(SuiteRequest(scale="smoke", out=tmp_path, seconds=0.0, models=models), display)
    plain, branched, mine = (dict(zip(report.columns, row, strict=True)) for row in report.rows)
    assert (mine["detector"], mine["AP yours"], mine["ms plain"]) == ("mine", "43.2", "-")
    assert mine["fused"] == "0.14" < mine["params M train"] and float(mine["GMACs"]) < float(plain["GMACs"])
    # With random weights, hardly any detection is right.
    assert plain["AP yours"] == branched["AP yours"] == "0.0" or float(plain["AP yours"]) < 5
    assert plain["params M train"] == plain["fused"] == branched["fused"] == "0.14"
    assert float(branched["params M train"]) > 0.14 and plain["GMACs"] == branched["GMACs"] != "-"
    assert plain["ms train state"] == plain["ms fused"] == "-" and plain["ms plain"] == branched["ms plain"]
    assert all(float(branched[name]) > 0 for name in ("ms train state", "ms fused", "ms plain"))
    lines = read_lines(tmp_path / "records.jsonl", lambda value, where: value, "file of records", of="record").values
    assert len(lines) == 5


def test_the_scale_of_the_paper_says_what_is_missing() -> None:
    with (
        pytest.raises(MissingError, match=r"needs COCO 2017 .* and an A100") as raised,
        progress(silent=True) as display,
    ):
        table4(SuiteRequest(scale="paper"), display)
    assert raised.value.exit_code == 3
    with pytest.raises(InputError, match="it does not support --only"), progress(silent=True) as display:
        table4(SuiteRequest(only=("x",)), display)
    with pytest.raises(InputError, match=r"x\.onnx: no such"), progress(silent=True) as display:
        table4(SuiteRequest(models=("x.onnx",)), display)
    with pytest.raises(InputError, match="vgg6: expected a detector, got a VGG"), progress(silent=True) as display:
        table4(SuiteRequest(models=("vgg6",)), display)


def test_every_row_is_a_network() -> None:
    assert {name for row in ROWS for name in (row.net, row.plain)} <= set(NETS)
    assert [row.published for row in ROWS] == [29.5, 31.2, 37.9, 38.1, 38.2]
