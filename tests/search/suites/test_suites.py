"""What all suites of this stage share."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest
import torch

from irepdeploy.console import progress
from irepdeploy.errors import InputError
from irepdeploy.runs.suite import SuiteRequest
from irepdeploy.search.suites import training_step
from irepdeploy.search.suites.alone import run_alone
from irepdeploy.search.suites.rounds import has_bf16

_BARRED = ("pydantic", "yaml", "typer", "click", "rich", "sklearn", "matplotlib", "PIL", "tensorboard", "onnxsim")
_ALONE = f"""
import sys

# Not by a finder that raises: torch asks which of them there are.
sys.modules.update(dict.fromkeys({_BARRED}))
from irepdeploy.search.suites import supernet_step, table1

for suite in (table1, supernet_step):
    code = suite.main(["--scale", "smoke", "--threads", "1", "--out", sys.argv[1]])
    if code:
        sys.exit(code)
"""


@pytest.mark.slow
def test_table1_and_supernet_step_run_by_themselves_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _ALONE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in ("vgg6", "search, days", "convolution, backward"):
        assert words in done.stdout
    table1, step = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert (table1["suite"], table1["network"], table1["population"]) == ("table1", "vgg6", 12)
    assert table1["device"] == step["device"] == "1 CPU threads"
    # Two candidates a round, one of them naively: all of the population, once.
    assert {len(samples) for samples in table1["samples_ns"].values()} == {6}
    assert step["suite"] == "supernet-step"
    assert {"naive", "exact", "merged"} <= set(step["samples_ns"]["as it is"])
    assert all(len(samples) == 2 for calls in step["samples_ns"].values() for samples in calls.values())
    assert sum(step["breakdown"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_training_cost_runs_by_itself_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    code = _ALONE.replace("supernet_step, table1", "training_cost").replace(
        "(table1, supernet_step)", "(training_cost,)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [line] = (tmp_path / "records.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record["suite"], record["network"], record["batch"]) == ("training-cost", "compact6", 8)
    assert list(record["samples_ns"]) == ["none plain", "repvgg exact", "repvgg merged", "repvgg frozen"]
    assert all(size > 0 for size in record["memory_bytes"].values())


@pytest.mark.parametrize(
    ("name", "starts_with"),
    [
        ("table1", "_Subject"),
        ("table5", "_row"),
        ("supernet_step", "_Subject"),
        ("training_step", "_recipe"),
        ("training_cost", "_measure"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    name: str, starts_with: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"irepdeploy.search.suites.{name}")
    (tmp_path / "file").touch()

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(module, starts_with, work)
    assert run_alone(getattr(module, name), name, ["--scale", "smoke", "--out", str(tmp_path / "file")]) == 2


def test_the_training_step_makes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "_PIPELINE_IMAGES", 200)
    with progress() as display:
        training_step.training_step(SuiteRequest("smoke", out=tmp_path / "new"), display)
        with pytest.raises(InputError, match="does not support --only"):
            training_step.training_step(SuiteRequest("smoke", only=["vgg16"]), display)
    assert (tmp_path / "new" / "records.jsonl").exists()


@pytest.mark.parametrize(("native", "has"), [(True, True), (False, False)])
def test_emulated_bfloat16_is_not_counted(native: bool, has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch does before Ampere, where it is slower than float32."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert has_bf16(torch.device("cuda")) is has
