"""What all suites of this stage share."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from irepdeploy.console import progress
from irepdeploy.errors import OutputError
from irepdeploy.runs.suite import SuiteRequest


@pytest.mark.parametrize(
    ("name", "starts_with"),
    [
        ("table1", "_Subject"),
        ("table5", "_row"),
        ("supernet_step", "_Subject"),
        ("training_step", "_recipe"),
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
    with progress() as display, pytest.raises(OutputError):
        getattr(module, name)(SuiteRequest("smoke", out=tmp_path / "file"), display)


def test_the_training_step_makes_its_folder(tmp_path: Path) -> None:
    from irepdeploy.search.suites.training_step import training_step

    with progress() as display:
        training_step(SuiteRequest("smoke", out=tmp_path / "new"), display)
    assert (tmp_path / "new" / "records.jsonl").exists()
