"""Commands with a default: ``irepdeploy search RECIPE`` beside ``irepdeploy search compare RECIPE``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["with_default"]

# A name that users do not type.
_DEFAULT = "(default)"


def with_default(default: Callable[..., None], **others: Callable[..., None]) -> typer.Typer:
    """Return a group that runs `default` for lines that name none of `others`, including ``--help``.

    A file with the name of one of the others is given as ``./NAME``.
    """
    text = inspect.getdoc(default)
    group = typer.Typer(cls=_Group, help=text)
    group.command(_DEFAULT, cls=_Default, hidden=True, help=text)(default)
    for name, function in others.items():
        group.command(name)(function)
    return group


class _Group(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


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
