"""The thorough check: on a fake board, on a board made of files with a fake TensorRT, and over ssh on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from irepdeploy.board.steps import FAILED, OK, SKIPPED, Finding
from irepdeploy.errors import CheckFailed, MissingError
from irepdeploy.jetson import thorough
from irepdeploy.jetson.measure import Settings
from irepdeploy.jetson.outcome import Outcome
from irepdeploy.jetson.thorough import check_thoroughly, failure, step_rows
from irepdeploy.onnx_graph.sample_model import sample_model
from irepdeploy.runs.record import read


class Agent:
    """A remote agent whose board answers what it is told to."""

    host = "board"

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)

    def ask(self, verb: str) -> dict[str, Any]:
        assert verb == "steps"
        return {"steps": self.steps}


def facts(*runners: str, lacks: tuple[str, ...] = (), cores: int | None = None) -> dict[str, Any]:
    return {"runners": list(runners), "missing": [{"for": each} for each in lacks], "dla_cores": cores}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Settings]]:
    """Precision and settings of each bench, all of which succeed."""
    found: list[tuple[str, Settings]] = []

    def measure_on(agent: Any, variants: Any, references: Any, settings: Settings, folder: Any) -> Outcome:
        found.append((variants[0].precision, settings))
        return Outcome("board", rows=[{"runner": "trt", "median_ms": 0.5, "max_rel_error": 1e-6}])

    monkeypatch.setattr(thorough, "measure_on", measure_on)
    monkeypatch.setattr(thorough, "reference_of", lambda model: None)
    return found


def test_what_is_tried_is_what_the_board_has(asked: list[tuple[str, Settings]]) -> None:
    found, records = check_thoroughly(Agent(), facts("trt", "ort-cpu", cores=2))  # type: ignore[arg-type]
    names = [
        "engine fp32",
        "engine fp16",
        "engine fp16, DLA core 0",
        "engine fp16, DLA core 1",
        "ONNX Runtime on the CPU",
    ]
    assert [each.name for each in found] == names and records == []
    assert step_rows(found)[0] == ["engine fp32", "ok", "0.0", "error 1.0e-06, trt 0.500 ms"]
    first = asked[0][1]
    assert first.power and first.via == "trtexec" and first.build_timeout_s == 300
    assert [settings.dla for _, settings in asked] == [None, None, 0, 1, None]
    asked.clear()
    check_thoroughly(Agent(), facts("trt", lacks=("power", "trtexec", "ort-cpu")))  # type: ignore[arg-type]
    assert [precision for precision, _ in asked] == ["fp32", "fp16"]
    assert not asked[0][1].power and asked[0][1].via is None


@pytest.mark.parametrize(
    ("error", "status"), [(MissingError("no DLA core 1"), SKIPPED), (CheckFailed("its outputs differ"), FAILED)]
)
def test_a_step_that_fails_stops_no_other(error: Exception, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> Outcome:
        raise error

    monkeypatch.setattr(thorough, "reference_of", lambda model: None)
    monkeypatch.setattr(thorough, "measure_on", fails)
    steps = {"name": "graphs", "status": "failed", "said": "a\x1b[2J", "seconds": "x", "figures": None}, 7
    found, _ = check_thoroughly(Agent(*steps), facts("trt"))  # type: ignore[arg-type]
    assert [each.status for each in found] == ["failed", "None", status, status]
    assert failure("board", found).line.startswith("board: failed: graphs")  # type: ignore[union-attr]
    assert failure("board", [Finding("a", OK)]) is None
    outcome = Outcome("board", failures={"sample": CheckFailed("its outputs differ")})
    monkeypatch.setattr(thorough, "measure_on", lambda *given: outcome)
    assert check_thoroughly(Agent(), facts("ort-cpu"))[0][0].status == FAILED  # type: ignore[arg-type]


def test_the_sample_is_what_it_says() -> None:
    session = onnxruntime.InferenceSession(sample_model(), providers=["CPUExecutionProvider"])
    out = session.run(None, {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype("float32")})[0]
    assert out.shape == (1, 10) and 0.01 < np.abs(out).max() < 100
    assert sample_model() == sample_model()


@pytest.mark.slow
def test_over_ssh(server: Any, jetson: Any, tmp_path: Path) -> None:
    code, out, _ = jetson("check", "board", "--thorough", "--out", str(tmp_path / "r"))
    assert code == 0 and "thorough check" in out
    lines = {line.split("  ")[0]: line for line in out[out.index("thorough check") :].splitlines()}
    assert "skipped" in lines["bindings"] and " ok " in lines["ONNX Runtime on the CPU"]
    assert [record.model for record in read(tmp_path / "r" / "records.jsonl")] == ["sample"]
    code, out, _ = jetson("check", "board", "--thorough", "--json")
    assert [each["name"] for each in json.loads(out)[0]["steps"]][:2] == ["bindings", "graphs"]


def test_records_are_of_the_thorough_check(server: Any, jetson: Any, tmp_path: Path) -> None:
    code, _, err = jetson("check", "board", "--out", str(tmp_path / "r"))
    assert code == 2 and "add --thorough" in err[-1]
