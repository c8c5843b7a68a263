"""The `doctor` command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irepdeploy.cli.options import JsonOption
from irepdeploy.console import next_step, print_json, say, table
from irepdeploy.errors import MissingError

if TYPE_CHECKING:
    from irepdeploy.doctor import Check

__all__ = ["doctor"]


def doctor(as_json: JsonOption = False) -> None:
    """Show what is installed, what actually works, and how to fix the rest.

    The exit code is 0 if everything that a plain installation needs works, and 3 otherwise.

    Example: irepdeploy doctor
    """
    from dataclasses import asdict

    from irepdeploy.doctor import examine

    checks = examine()
    lacking = [check for check in checks if check.required and check.status == "missing"]
    if as_json:
        print_json({"ok": not lacking, "checks": [asdict(check) for check in checks]})
    else:
        _show(checks)
    if lacking:
        hint = next((check.fix for check in lacking if check.fix), None)
        raise MissingError("a plain installation needs: " + ", ".join(check.name for check in lacking), hint=hint)
    if not as_json:
        next_step("demo", "--quick")


def _show(checks: list[Check]) -> None:
    rows = [[check.name, check.found, check.status, check.note] for check in checks]
    table("This machine", ["what", "found", "status", "note"], rows)
    lines: dict[str, list[str]] = {}
    for check in checks:
        if check.fix:
            lines.setdefault(check.fix, []).append(check.name + (" (needed)" if check.required else ""))
    if lines:
        say("Commands that fix this, each only if you need it:")
    for line, names in lines.items():
        say(f"  {line}  # {', '.join(names)}")
