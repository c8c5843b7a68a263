"""A command group whose help shows whole sentences and examples that can be pasted."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from typer.core import TyperGroup

__all__ = ["EXAMPLES", "CommandGroup"]

# Longer than any sentence; by default typer truncates the short help at the width of the terminal.
_WHOLE = 1000
_FEW = 8
# A paragraph that begins with \b keeps its line breaks.
EXAMPLES = "\n\n\b\nExamples:\n"
_GIVEN = re.compile(r"\s+Examples?:\s+(irepdeploy .*|torchrun .*)\Z", re.DOTALL)


class CommandGroup(TyperGroup):
    """A group for ``typer.Typer(cls=CommandGroup)``.

    The docstring of a command ends in "Example: " and a command line, or in "Examples: " and several separated by
    semicolons. The help shows each one unwrapped on its own line, so that it can be pasted.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in self.commands.values():
            command.help = _with_examples(command.help or "")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` names; for an unknown name, a small group lists its commands in the error."""
        known = self.list_commands(ctx)
        wrong = not ctx.resilient_parsing and args[0] not in known and not args[0].startswith("-")
        # typer itself suggests similar names.
        if wrong and len(known) <= _FEW and not get_close_matches(args[0], known):
            ctx.fail(f"no command {args[0]!r} (one of {', '.join(known)})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, wrapping long sentences instead of truncating them."""
        shown = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in shown if not command.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _with_examples(text: str) -> str:
    given = _GIVEN.search(text)
    if given is None:
        return text
    lines = (" ".join(line.split()) for line in re.split(r";\s+", given[1]))
    return text[: given.start()] + EXAMPLES + "\n".join(f"  {line}" for line in lines)
