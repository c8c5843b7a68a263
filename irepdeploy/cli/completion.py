"""Shell completion for bash, zsh and fish: the script, its installation, and the answers to its requests.

The script calls `irepdeploy` with an environment variable set. Completion must be instant, so values that only torch
could list are not completed.
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
    """Print the possible completions at the cursor for the script, and return the exit code that it expects."""
    from typer import completion
    from typer.main import get_command

    completion.get_completion_inspect_parameters()  # registers typer's completion classes for the shells
    try:
        return completion.shell_complete(get_command(application), {}, _PROGRAM, VARIABLE, os.environ[VARIABLE])
    except SystemExit as done:
        return int(done.code or 0)
    except Exception:  # an error must never disturb the line that the user is typing
        return 1


def install() -> str:
    """Install completion for the current shell and return a message about it."""
    from typer.completion import install

    shell, path = install(shell=_shell(), prog_name=_PROGRAM, complete_var=VARIABLE)
    return f"completion for {shell} is installed in {path}; it takes effect in new shells"


def show() -> str:
    """Return the completion script for the current shell."""
    from typer.completion import get_completion_script

    return get_completion_script(prog_name=_PROGRAM, complete_var=VARIABLE, shell=_shell())


def names(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a completion function for an option that takes one of `known`, or several separated by commas."""

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
            f"expected bash, zsh or fish as the current shell, got {found or 'no shell'}",
            hint="run this command from one of them",
        )
    return found
