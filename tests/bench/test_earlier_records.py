"""Records written by an earlier version (commit 056a336): a run of two models, and two suites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from irepdeploy.cli import main
from irepdeploy.runs.record import read

ASSETS = Path(__file__).parent / "assets"


def test_report_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(ASSETS / name) for name in ("models.jsonl", "suites.jsonl")]
    assert main(["report", *files, "--json", "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {(row["suite"], row["model"], row["runner"], row["n"] > 0) for row in rows} == {
        ("models", "vgg6.onnx", "ort-cpu", True),
        ("models", "vgg6", "torch", True),
        ("table2", "VGG, BN kept", "ort-cpu", True),
        ("table2", "VGG, BN folded", "ort-cpu", True),
        ("table2", "IrepVGG-16, fused", "ort-cpu", True),
    }
    assert "training step" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("limit", "code"), [("100000%", 0), ("0%", 1)])
def test_bench_is_compared_with_them(limit: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = ASSETS / "models.jsonl"
    if code:
        # The same machine, a thousand times faster at that time.
        lines = [json.loads(line) for line in earlier.read_text().splitlines()]
        for line in lines:
            line["samples_ns"] = [value // 1000 for value in line["samples_ns"]]
        earlier = tmp_path / "faster.jsonl"
        earlier.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = ["bench", "vgg6", "--seconds", "0", "--against", str(earlier), "--max-slower", limit, "--other-machine"]
    assert main(command) == code
    assert f"vgg6 (torch, fp32, 1x1x16x16): {'slower' if code else 'ok'}, " in capsys.readouterr().out


def test_they_keep_every_field() -> None:
    written = json.loads((ASSETS / "models.jsonl").read_text().splitlines()[1])
    record = read(ASSETS / "models.jsonl")[1]
    assert {name: getattr(record, name) for name in written if name != "schema"} == {
        name: value for name, value in written.items() if name != "schema"
    }
