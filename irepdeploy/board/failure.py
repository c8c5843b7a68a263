"""Conversion of irepdeploy's errors to and from JSON, to pass them between processes and from board to desk."""

from __future__ import annotations

from typing import Any

from irepdeploy import errors
from irepdeploy.errors import IrepdeployError, RunError

__all__ = ["from_named", "named"]


def named(error: IrepdeployError) -> dict[str, Any]:
    """Return the exit code, class name and texts of an error as a JSON object."""
    kind = type(error).__name__
    return {"code": error.exit_code, "kind": kind, "what": error.what, "where": error.where, "hint": error.hint}


def from_named(value: dict[str, Any]) -> IrepdeployError:
    """Rebuild an error from the result of `named`; a class unknown to this version becomes RunError."""
    kind = getattr(errors, str(value["kind"]), RunError)
    return kind(value["what"], where=value["where"], hint=value["hint"])
