"""Convert failures of the agent to irepdeploy's errors."""

from __future__ import annotations

from typing import Any

import irepdeploy.errors
from irepdeploy.console import command_line
from irepdeploy.errors import IrepdeployError, RunError, one_line

from .ssh_failure import disk_full, full_error, last_line

__all__ = ["RemoteBug", "agent_error", "ended_silently", "tree_error"]


class RemoteBug(RuntimeError):
    """A bug in irepdeploy that occurred on the board; its notes contain the traceback."""


def tree_error(event: dict[str, Any], where: str) -> IrepdeployError | None:
    """Rebuild the error that the agent raised, located in `where`; None if it is not one of irepdeploy's."""
    kind = str(event.get("kind"))
    made = getattr(irepdeploy.errors, kind, None) if kind in irepdeploy.errors.__all__ else None
    if made is None or event.get("code") == irepdeploy.errors.EXIT_BUG:
        return None
    what = one_line(str(event.get("what") or "the agent gave no reason"))
    place = f"{where}: {one_line(str(event['where']))}" if event.get("where") else where
    error: IrepdeployError = made(what, where=place, hint=one_line(str(event["hint"])) if event.get("hint") else None)
    return error


def agent_error(event: dict[str, Any], host: str) -> BaseException:
    """Convert the last event of an agent to an irepdeploy error, a `RemoteBug`, or RunError if it was interrupted."""
    if event.get("code") == irepdeploy.errors.EXIT_INTERRUPTED:
        return RunError("the agent was interrupted on the board", where=host, hint="measure again")
    error = tree_error(event, host)
    if error is not None:
        return error
    bug = RemoteBug(f"on {host}: {one_line(str(event.get('what')))}")
    bug.add_note(f"from the board:\n{event.get('traceback') or 'no traceback'}")
    return bug


def ended_silently(code: int, text: str, host: str) -> IrepdeployError:
    """Return the error for an agent that ended with this exit code and stderr, but without a last event."""
    if disk_full(text):
        return full_error(host)
    reason = last_line(text)
    if code > 128:
        what = f"the agent was killed by signal {code - 128}" + (" (out of memory?)" if code == 137 else "")
    else:
        what = f"the agent ended without an answer (exit code {code})"
    return RunError(f"{what}{': ' + reason if reason else ''}", where=host, hint=command_line("jetson", "check", host))
