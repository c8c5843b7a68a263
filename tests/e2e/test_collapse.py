"""An unfused ONNX file of somebody else's blocks: explained, collapsed, verified and measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from irepdeploy.cli import main
from irepdeploy.runs.record import read
from support.published_networks import PUBLISHED, exported, published_network


def test_from_an_unfused_file_to_a_plain_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = tmp_path / "unfused.onnx", tmp_path / "build"
    given.write_bytes(exported(published_network("mobileone"), PUBLISHED["mobileone"].input_shape))
    assert main(["export", str(given), "--explain"]) == 0
    explained = capsys.readouterr().out
    assert "convolutions 32 -> 7" in explained and not out.exists()
    assert main(["export", str(given), "--out", str(out)]) == 0
    assert "convolutions 32 -> 7" in capsys.readouterr().out
    assert main(["verify", str(given), str(out / "model.onnx")]) == 0
    models = [f"unfused={given}", f"collapsed={out / 'model.onnx'}"]
    assert main(["bench", *models, "--runner", "ort-cpu", "--seconds", "0", "--out", str(tmp_path / "results")]) == 0
    assert "collapsed" in capsys.readouterr().out
    assert [record.model for record in read(tmp_path / "results" / "records.jsonl")] == ["unfused", "collapsed"]
