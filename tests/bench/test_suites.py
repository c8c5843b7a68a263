from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from irepdeploy.bench import suites
from irepdeploy.cli import main
from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.suite import SuiteReport, SuiteRequest


def asked(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Tells what it was asked."""
    cells = [[request.scale, request.device, str(request.threads), str(request.seed)]]
    return SuiteReport("asked", ["scale", "device", "threads", "seed"], cells, ["a note"], {"scale": request.scale})


@pytest.fixture(autouse=True)
def one_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "entry_points", lambda group: [Point("asked", "", group)])


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
    assert main(["bench", "--suite", "asked", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"title": "asked", "notes": ["a note"], "figures": {"scale": "small"}}


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_that_torch_would_crash_with_are_refused_however_a_suite_is_called(threads: int) -> None:
    with pytest.raises(InputError, match="from 1 to 1024"):
        SuiteRequest(threads=threads)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--suite", "askd"], "did you mean asked?"),
        (["--suite", "other"], "one of asked"),
        (["--suite", "asked", "--scale", "large"], "--scale: no scale 'large' (one of smoke, small, paper)"),
        (["--suite", "asked", "--device", "tpu"], "--device: no device 'tpu' (cpu or cuda)"),
        (["--suite", "asked", "vgg6"], "leave the models out"),
        (["--suite", "asked", "--runner", "ort-cpu"], "--runner is not for suites"),
        (["--suite", "asked", "--model", "a:b"], "--model is not for suites"),
        (["--suite", "asked", "--seconds", "9"], "--seconds is not for suites"),
        (["--suite", "asked", "--threads", "100000"], "--threads"),
        (["--scale", "smoke", "vgg6"], "add --suite NAME"),
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
