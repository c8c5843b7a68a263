"""Completion answers queries of shells, installs itself, and never disturbs the line being typed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from irepdeploy.cli import completion, main

Output = pytest.CaptureFixture[str]


def answers(monkeypatch: pytest.MonkeyPatch, capsys: Output, *words: str) -> list[str]:
    """Return the completions that bash offers for the last of these words."""
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(["irepdeploy", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["rep"], ["reproduce", "report"]),
        (["plot", "arch"], ["arch", "arch-weights"]),
        (["search", "digi"], ["digits"]),
        (["search", "comp"], ["compare"]),
        (["search", "--res"], ["--resume"]),
        (["search", "digits", "--overw"], ["--overwrite"]),
        (["export", "x.onnx", "--target", "xav"], ["xavier-jp5"]),
        (["export", "x.onnx", "--precision", "fp32,int"], ["fp32,int8"]),
        (["bench", "--suite", "table"], [f"table{number}" for number in range(1, 6)]),
        (["verify", "some-file"], []),
        (["no-such-command", "x"], []),
    ],
)
def test_what_is_offered(monkeypatch: pytest.MonkeyPatch, capsys: Output, words: list[str], offered: list[str]) -> None:
    assert answers(monkeypatch, capsys, *words) == offered


def test_an_answer_that_fails_prints_nothing_and_leaves_no_report(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(completion.VARIABLE, "complete_bash")
    monkeypatch.delenv("COMP_WORDS", raising=False)
    assert main([]) == 1
    assert capsys.readouterr() == ("", "") and list(tmp_path.iterdir()) == []


def test_bash_completes(monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert main(["--show-completion"]) == 0
    script = capsys.readouterr().out
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash: apt-get install bash")
    program = tmp_path / "irepdeploy"
    program.write_text(f'#!/bin/sh\necho "$COMP_CWORD:$COMP_WORDS:${completion.VARIABLE}"\n')
    program.chmod(0o755)
    asks = "COMP_WORDS=(irepdeploy ex); COMP_CWORD=1; _irepdeploy_completion irepdeploy; echo ${COMPREPLY[*]}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script + asks], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["1:irepdeploy", "ex:complete_bash"]


@pytest.mark.parametrize(
    ("shell", "path"),
    [
        ("bash", ".bash_completions/irepdeploy.sh"),
        ("zsh", ".zfunc/_irepdeploy"),
        ("fish", ".config/fish/completions/irepdeploy.fish"),
    ],
)
def test_it_installs_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path, shell: str, path: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    assert main(["--install-completion"]) == 0
    assert str(tmp_path / path) in capsys.readouterr().err
    assert completion.VARIABLE in (tmp_path / path).read_text()


def test_another_shell_is_wrong_input(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    assert main(["--install-completion"]) == 2
    assert "expected bash, zsh or fish as the current shell, got tcsh" in capsys.readouterr().err
