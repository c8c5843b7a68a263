"""The command tree, built from the entry points in the group `irepdeploy.commands`.

A command is a typed function or a `typer.Typer` group. A command that cannot be imported remains in the help, with the
reason and the command that fixes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer

from irepdeploy.cli.group import CommandGroup
from irepdeploy.console import log, say
from irepdeploy.errors import LONGEST_LINE, IrepdeployError, MissingError, one_line

__all__ = ["application", "invoke", "missing"]

_GROUP = "irepdeploy.commands"
_ORDER = (
    "demo",
    "init",
    "search",
    "train",
    "reproduce",
    "export",
    "verify",
    "bench",
    "jetson",
    "plot",
    "report",
    "inspect",
    "detect",
    "doctor",
    "explain",
)
_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}

# The extra that installs each optional package.
_EXTRAS = {
    "cuda": "trt",
    "datasets": "data",
    "matplotlib": "report",
    "onnxscript": "dynamo",
    "tensorboard": "tensorboard",
    "tensorrt": "trt",
}

# Not `pip install irepdeploy`: until the first release, that name on a package index could belong to somebody else.
_AGAIN = "install irepdeploy again"


def application() -> typer.Typer:
    """Import all installed commands and return the application that contains them."""
    # Plain help text: rich markup would double the time that `--help` takes.
    app = typer.Typer(cls=_Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(_options)
    for name, value, settings in _commands():
        if isinstance(value, typer.Typer):
            app.add_typer(value, name=name)
        else:
            app.command(name, **settings)(value)
    return app


class _Commands(CommandGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the command names in the order of the help; by default typer lists groups last."""
        return sorted(self.commands, key=_place)


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def invoke(args: Sequence[str]) -> None:
    """Run a command line in this process, without catching errors."""
    from typer.main import get_command

    with get_command(application()).make_context("irepdeploy", list(args)) as context:
        context.command.invoke(context)


def missing(error: ImportError, where: str | None = None) -> MissingError:
    """Return the error for a failed import, with the command that installs what is missing."""
    package = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package not in ("", "irepdeploy"):
        extra = _EXTRAS.get(package)
        line = f"pip install 'irepdeploy[{extra}]'" if extra else _AGAIN
        return MissingError(f"the Python module {error.name!r} is not installed", where=where, hint=line)
    return MissingError(f"cannot be imported: {one_line(error)}", where=where, hint=_AGAIN)


def _print_version(wanted: bool) -> None:
    if wanted:
        from irepdeploy import __version__

        say(f"irepdeploy {__version__}")
        raise typer.Exit


def _install_completion(wanted: bool) -> None:
    if wanted:
        from irepdeploy.cli.completion import install

        log(install())
        raise typer.Exit


def _show_completion(wanted: bool) -> None:
    if wanted:
        from irepdeploy.cli.completion import show

        for line in show().splitlines():
            say(line)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            callback=_install_completion,
            is_eager=True,
            help="Install completion for the current shell: bash, zsh or fish.",
        ),
    ] = False,
    show_completion: Annotated[
        bool,
        typer.Option(
            "--show-completion", callback=_show_completion, is_eager=True, help="Print the completion script."
        ),
    ] = False,
    # cli.main handles this option before typer; it is listed here for the help.
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of errors; accepted anywhere on the command line.")
    ] = False,
) -> None:
    """Search re-parameterization branches, train with them, fuse them exactly, and deploy the plain network."""


def _commands() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=_GROUP):
        if found.setdefault(point.name, point).value != point.value:
            log(f"warning: command {point.name!r} is {found[point.name].value}; {point.value} is ignored")
    for name in sorted(found, key=_place):
        try:
            yield name, found[name].load(), {}
        except Exception as error:  # a stage that fails to import must not break the other commands
            yield name, *_placeholder(found[name].value, error)


def _placeholder(home: str, error: Exception) -> tuple[Callable[[], None], dict[str, Any]]:
    """Return a stand-in for a command that cannot be imported; it accepts any arguments and raises the reason."""
    reason = missing(error, where=home) if isinstance(error, ImportError) else error

    def placeholder() -> None:
        raise reason from (None if reason is error else error)

    text = reason.line if isinstance(reason, IrepdeployError) else f"{home}: {type(error).__name__}: {error}"
    text = one_line(f"NOT AVAILABLE: {text}", LONGEST_LINE)
    return placeholder, {"help": text, "short_help": text, "context_settings": _ANYTHING}
