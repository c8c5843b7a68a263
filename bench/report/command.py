"""``irepdeploy report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.cli.options import JsonOption
from irepdeploy.console import print_json, say

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Folders (all below them is read too), records.jsonl, certificate.json."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The page, NAME.html, or a folder for report.html. Default: the first DIR's report.html.",
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "Latency report",
    as_json: JsonOption = False,
) -> None:
    """Write the results of runs as one self-contained page, with the same as CSV and Markdown beside it.

    Examples: irepdeploy report results; irepdeploy report here jetson --out both.html
    """
    from .write import write_report

    written = write_report(folders, out=out, title=title)
    if as_json:
        print_json(written.to_dict())
        return
    for path in written.files:
        say(f"wrote {path}")
