from __future__ import annotations

import json
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from irepdeploy.bench import run_suite
from irepdeploy.cli import main
from irepdeploy.console import ProgressDisplay, progress
from irepdeploy.errors import InputError
from irepdeploy.runs.suite import SuiteReport, SuiteRequest


def asked(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Records its request."""
    cells = [[request.scale, request.device, str(request.threads), str(request.seed)]]
    figures = {"scale": request.scale, "models": request.models, "runners": request.runners}
    figures |= {"seconds": request.seconds, "only": request.only, "out": request.out and str(request.out)}
    return SuiteReport("asked", ["scale", "device", "threads", "seed"], cells, ["a note"], figures)


@pytest.fixture(autouse=True)
def one_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_suite, "entry_points", lambda group: [Point("asked", "", group)])


class Point(EntryPoint):
    def load(self) -> object:
        return asked


def test_a_suite_gets_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "--suite", "asked", "--scale", "smoke", "--device", "cpu", "--threads", "2", "--seed", "7"]
    assert main(line) == 0
    found = capsys.readouterr().out
    assert found.splitlines()[3].split() == ["smoke", "cpu", "2", "7"]
    assert found.splitlines()[-1] == "a note"


def test_the_figures_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "a=vgg6", "vgg6", "--suite", "asked", "--runner", "torch,ort-cpu", "--seconds", "0", "--json"]
    assert main([*line, "--only", "a row", "--only", "another", "--out", "results"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["title"], found["notes"]) == ("asked", ["a note"])
    assert found["figures"] == {
        "scale": "small",
        "models": ["a=vgg6", "vgg6"],
        "runners": ["torch", "ort-cpu"],
        "seconds": 0.0,
        "only": ["a row", "another"],
        "out": "results",
    }


# table1 takes seconds as a limit.
@pytest.mark.parametrize(
    ("suite", "given"),
    [
        (suite, given)
        for suite in ("table1", "table5", "supernet_step", "training_step", "training_cost")
        for given in ({"models": ["vgg6"]}, {"runners": ["torch"]}, {"seconds": 1.0})
        if (suite, *given) != ("table1", "seconds")
    ],
)
def test_suites_of_the_search_take_no_networks(suite: str, given: dict[str, Any]) -> None:
    module = import_module(f"irepdeploy.search.suites.{suite}")
    with progress(silent=True) as display, pytest.raises(InputError, match="it does not support"):
        getattr(module, suite)(SuiteRequest("smoke", **given), display)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_that_torch_would_crash_with_are_refused_however_a_suite_is_called(threads: int) -> None:
    with pytest.raises(InputError, match="from 1 to 1024"):
        SuiteRequest(threads=threads)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--suite", "askd"], "did you mean asked?"),
        (["--suite", "other"], "one of asked"),
        (["--suite", "asked", "--scale", "large"], "--scale: unknown scale 'large' (one of smoke, small, paper)"),
        (["--suite", "asked", "--device", "tpu"], "--device: unknown device 'tpu' (cpu or cuda)"),
        (["--suite", "asked", "--against", "r.jsonl"], "--against is not for suites"),
        (["--suite", "asked", "--tf32"], "--tf32 is not for suites"),
        (["--suite", "asked", "--shape", "x=1x2"], "--input-shape is not for suites"),
        (["--suite", "asked", "--model", "a:b"], "--model is not for suites"),
        (["--suite", "asked", "--scenario", "offline"], "--scenario is not for suites"),
        (["--suite", "asked", "--threads", "100000"], "--threads"),
        (["--scale", "smoke", "vgg6"], "add --suite NAME"),
        (["--only", "VGG", "vgg6"], "add --suite NAME"),
        (["vgg6", "--against", "missing.jsonl"], "missing.jsonl"),
        (["vgg6", "--max-slower", "5", "--against", "r.jsonl"], "expected a percentage"),
        ([], "name a model"),
    ],
)
def test_bad_input(line: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *line]) == 2
    assert words in capsys.readouterr().err


def test_cuda_where_there_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "--suite", "asked", "--device", "cuda"]) == 3
    assert "no CUDA device" in capsys.readouterr().err
