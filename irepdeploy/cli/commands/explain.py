"""The `explain` command: show the section of the troubleshooting page on an error."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from irepdeploy.cli.completion import names

__all__ = ["explain", "sections"]

_HEADING = re.compile(r"^## (?P<name>[\w-]+): .* \(exit codes? (?P<codes>[\d, ]+)\)$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


def sections() -> dict[str, tuple[tuple[str, ...], str]]:
    """Return the exit codes and the text of each section of the troubleshooting page, by name."""
    from importlib.resources import files

    page = files("irepdeploy.cli").joinpath("troubleshooting.md").read_text(encoding="utf-8")
    headings = list(_HEADING.finditer(page))
    ends = [*(heading.start() for heading in headings[1:]), len(page)]
    return {
        heading["name"]: (tuple(heading["codes"].split(", ")), page[heading.start() : end].strip())
        for heading, end in zip(headings, ends, strict=True)
    }


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|CODE]",
            help="Kind of error, such as not-fusable, or an exit code. [list all]",
            autocompletion=names(lambda: sections()),
            show_default=False,
        ),
    ] = None,
) -> None:
    """Explain an error or an exit code: its usual causes and how to fix them.

    Examples: irepdeploy explain not-fusable; irepdeploy explain 3
    """
    from irepdeploy.console import say, table
    from irepdeploy.errors import InputError, choices

    known = sections()
    if name in known:
        title, *lines = _LINK.sub(r"\1", known[name][1]).splitlines()
        say(title.partition(": ")[2])
        for line in lines:
            say(line)
        return
    rows = [(one, ", ".join(codes), _title(text)) for one, (codes, text) in known.items() if name in (None, *codes)]
    if not rows:
        raise InputError(f"unknown kind of error {name!r}", hint=choices(name or "", known))
    if len(rows) == 1:
        explain(rows[0][0])
        return
    table("Kinds of errors: irepdeploy explain NAME", ["name", "exit code", "meaning"], rows)


def _title(text: str) -> str:
    return text.splitlines()[0].partition(": ")[2].rpartition(" (")[0]
