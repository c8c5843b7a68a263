"""Completion in bash, zsh and fish: its script, its installation, and the answers that the script asks for.

The script calls `irepdeploy` with a variable in the environment. An answer must come at once, so no value is completed
whose names only torch knows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["VARIABLE", "answer", "install", "names", "show"]

VARIABLE = "_IREPDEPLOY_COMPLETE"
_PROGRAM = "irepdeploy"
_SHELLS = ("bash", "zsh", "fish")


def answer(application: Any) -> int:
    """Print what could stand at the cursor, as the script asked for it, and return the exit code that it expects."""
    from typer import completion
    from typer.main import get_command

    completion.get_completion_inspect_parameters()  # makes typer's classes of the shells known
    try:
        return completion.shell_complete(get_command(application), {}, _PROGRAM, VARIABLE, os.environ[VARIABLE])
    except SystemExit as done:
        return int(done.code or 0)
    except Exception:  # whatever happened, the line that somebody is typing must stay as it is
        return 1


def install() -> str:
    """Install completion for the shell around this process and return what was done."""
    from typer.completion import install

    shell, path = install(shell=_shell(), prog_name=_PROGRAM, complete_var=VARIABLE)
    return f"completion for {shell} is in {path}; it works in shells that you open from now on"


def show() -> str:
    """Return the script for the shell around this process."""
    from typer.completion import get_completion_script

    return get_completion_script(prog_name=_PROGRAM, complete_var=VARIABLE, shell=_shell())


def names(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return the completion of an option that takes one of these names, or several with commas between them."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known() if name.startswith(last)]

    return complete


def _shell() -> str:
    import shellingham

    try:
        found = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        found = Path(os.environ.get("SHELL", "")).name
    if found not in _SHELLS:
        raise InputError(
            f"expected bash, zsh or fish around this command, got {found or 'no shell'}",
            hint="start it from one of them",
        )
    return found
