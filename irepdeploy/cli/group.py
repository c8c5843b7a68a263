"""A group of commands whose list shows the first sentence of each, whole."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["CommandGroup"]

# Longer than any sentence: typer cuts it at the width of the terminal otherwise.
_WHOLE = 1000


class CommandGroup(TyperGroup):
    """A group for ``typer.Typer(cls=CommandGroup)``."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list, with long sentences on several lines."""
        shown = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in shown if not command.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
