"""irepdeploy's errors as JSON, to pass them between processes and from the board to the desk."""

from __future__ import annotations

from typing import Any

from irepdeploy import errors
from irepdeploy.errors import IrepdeployError, RunError

__all__ = ["from_named", "named"]


def named(error: IrepdeployError) -> dict[str, Any]:
    """Return the exit code, class name and texts of an error."""
    kind = type(error).__name__
    return {"code": error.exit_code, "kind": kind, "what": error.what, "where": error.where, "hint": error.hint}


def from_named(value: dict[str, Any]) -> IrepdeployError:
    """Rebuild the error that `named` described; a class of a newer version becomes RunError."""
    kind = getattr(errors, str(value["kind"]), RunError)
    return kind(value["what"], where=value["where"], hint=value["hint"])
