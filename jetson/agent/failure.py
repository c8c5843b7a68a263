"""An error of ours as JSON, and back: between the agent's processes, and on to the desk.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

from typing import Any

from irepdeploy import errors
from irepdeploy.errors import IrepdeployError, RunError

__all__ = ["from_named", "named"]


def named(error: IrepdeployError) -> dict[str, Any]:
    """Exit code, class and words of an error."""
    return {
        "code": error.exit_code,
        "kind": type(error).__name__,
        "what": error.what,
        "where": error.where,
        "hint": error.hint,
    }


def from_named(value: dict[str, Any]) -> IrepdeployError:
    """The error that `named` described."""
    kind = getattr(errors, str(value["kind"]), RunError)
    return kind(value["what"], where=value["where"], hint=value["hint"])
