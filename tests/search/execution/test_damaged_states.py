"""No damaged state of a run is resumed from: random faults in state.pt, and `--resume` of both commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irepdeploy.cli.program import main
from irepdeploy.errors import CheckpointError
from irepdeploy.search.execution.run_folder import RunFolder
from support.campaign import campaign, cases
from support.faults import archive_faults, faults


def resumed(path: Path) -> RunFolder:
    return RunFolder(path, "a recipe", (), resume=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with a saved state."""
    path = tmp_path / "run"
    folder = RunFolder(path, "a recipe", ())
    folder.journal.write_bytes(b'{"event": "start", "recipe": {}}\n')
    folder.save_state({"model": {"weight": torch.rand(6, 5), "bias": torch.rand(5)}, "epoch": 3, "best": (0.5, -1.0)})
    return path


def test_no_fault_goes_unseen(run: Path) -> None:
    state = run / "state.pt"
    whole = state.read_bytes()
    assert resumed(run).load_state() is not None
    with campaign("damaged saved states") as counts:
        for seed in range(cases(100, 3_000)):
            kind, damaged = (faults, archive_faults)[seed % 2](whole, seed)
            state.write_bytes(damaged)
            try:
                resumed(run).load_state()
            except CheckpointError as error:
                if error.exit_code == 2 and str(state) in error.line and "\n" not in error.line:
                    counts.hold(kind)
                else:
                    counts.fail(kind, f"seed {seed}: {error.line!r}")
            else:
                counts.fail(kind, f"seed {seed}: loads")


@pytest.mark.parametrize("command", ["search", "train"])
def test_resume_refuses_a_damaged_state_and_changes_nothing(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = run / "state.pt"
    whole = bytearray(state.read_bytes())
    whole[len(whole) // 2] ^= 1
    state.write_bytes(whole)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert main([command, "digits", "scale=smoke", "--resume", "--out", str(run)]) == 2
    assert "damaged:" in " ".join(capsys.readouterr().err.split())
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
