"""Every class of errors has a section on the troubleshooting page, and error messages tell how to read it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from irepdeploy import errors
from irepdeploy.cli import main
from irepdeploy.cli.commands import explain as module
from irepdeploy.cli.commands.explain import explain

ROOT = Path(__file__).parents[2]
KINDS = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.IrepdeployError)]


@pytest.mark.parametrize("kind", [each for each in KINDS if each is not errors.IrepdeployError])
def test_every_kind_of_error_is_explained(kind: type[errors.IrepdeployError]) -> None:
    codes, text = module.sections()[kind("x").topic]
    assert codes == (str(kind.exit_code),) and len(text.splitlines()) > 3


def test_an_error_of_another_module_is_explained_as_its_kind() -> None:
    class Special(errors.NotFusable):
        """Not in the tree."""

    assert Special("x").topic == "not-fusable"


def test_by_name_by_code_and_as_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    explain("missing")
    text = capsys.readouterr().out
    assert text.startswith("something is not installed or not reachable (exit code 3)\n\n- **A Python package**")
    assert "](" not in text and "Extras lists" in " ".join(text.split())
    explain("3")
    assert capsys.readouterr().out == text
    explain("2")
    names = {line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]}
    assert {"input", "recipe", "not-fusable"} < names and not {"missing", "run"} & names
    explain(None)
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:]]
    assert listed == list(module.sections()) and "interrupted" in listed


def test_quoted_messages_are_those_of_the_runners() -> None:
    page = " ".join(text for _, text in module.sections().values())
    runners = [ROOT / "irepdeploy" / "board", ROOT / "irepdeploy" / "runtime", ROOT / "bench"]
    code = "".join(file.read_text() for folder in runners for file in sorted(folder.glob("*.py")))
    phrases = [
        *("takes no", "cannot run", "has no option to disable TF32", "cannot load", "but the GPU here has"),
        *("cannot compile this network as a whole", "cannot be captured as a CUDA graph", "unsteady"),
        *("ONNX Runtime lacks an operator of this model", "is not part of the installed onnxruntime"),
        "cannot run every operator of this model, and falling back is disabled",
        "torch.compile needs a C++ compiler",
    ]
    assert [phrase for phrase in phrases if f"`{phrase}`" not in page or phrase not in code] == []


@pytest.mark.parametrize(("name", "hint"), [("not-fusible", "did you mean not-fusable"), ("7", "one of check-failed")])
def test_a_name_that_is_none(name: str, hint: str) -> None:
    with pytest.raises(errors.InputError, match=hint):
        explain(name)


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_gets_the_second_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert main(["nothing-of-this-name"]) == 2
    line, *more = capsys.readouterr().err.splitlines()[1:]
    assert line.startswith("irepdeploy: error: ")
    assert more == (["more: irepdeploy explain input"] if terminal else [])
