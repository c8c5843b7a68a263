"""The CI job of `examples/equivalence.yml` runs unchanged."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

import irepdeploy
from irepdeploy.cli import main
from support.networks import random_network

JOB = Path(__file__).parents[2] / "examples" / "equivalence.yml"


def test_the_job_passes_and_fails_when_the_model_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = yaml.safe_load(JOB.read_text())["jobs"]["equivalence"]["steps"]
    lines = [shlex.split(step["run"]) for step in steps if step.get("run", "").startswith("irepdeploy ")]
    assert [line[1] for line in lines] == ["export", "verify"]
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    irepdeploy.save(random_network(branches="repvgg"), "checkpoints/model.pt")
    assert [main(line[1:]) for line in lines] == [0, 0]
    irepdeploy.save(random_network(branches="repvgg", seed=1), "checkpoints/model.pt")
    assert main(lines[1][1:]) == 1
