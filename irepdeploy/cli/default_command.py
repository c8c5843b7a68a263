"""Groups with a default command: ``irepdeploy search RECIPE`` as well as ``irepdeploy search compare RECIPE``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from irepdeploy.cli.group import CommandGroup

__all__ = ["with_default"]

# A name that no user types.
_DEFAULT = "(default)"


def with_default(default: Callable[..., None], **others: Callable[..., None]) -> typer.Typer:
    """Return a command group that runs `default` unless the first argument names one of `others`.

    ``--help`` alone also goes to `default`. A file that has the name of one of the others must be given as ``./NAME``.
    """
    text = inspect.getdoc(default)
    group = typer.Typer(cls=_Group, help=text)
    group.command(_DEFAULT, cls=_Default, hidden=True, help=text)(default)
    for name, function in others.items():
        group.command(name)(function)
    return group


class _Group(CommandGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if (not args or args[0] not in self.commands) and not (ctx.resilient_parsing and not args):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete the first word: one of the other commands, or an option or first argument of the default."""
        default = self.commands[_DEFAULT]
        found = [*super().shell_complete(ctx, incomplete), *default.shell_complete(ctx, incomplete)]
        arguments = [each for each in default.params if each.param_type_name == "argument"]
        return found + (arguments[0].shell_complete(ctx, incomplete) if arguments else [])


class _Context(typer.Context):
    @property
    def command_path(self) -> str:
        assert self.parent is not None
        return self.parent.command_path


class _Default(TyperCommand):
    context_class = _Context

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        ctx.parent.command.format_commands(ctx.parent, formatter)
