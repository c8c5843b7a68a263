"""``irepdeploy report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.cli.options import JsonOption
from irepdeploy.console import log, print_json, say
from irepdeploy.errors import InputError

__all__ = ["report"]


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR",
            help="Folders of runs, exports, measurements and detections, which are read recursively, or single files.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Page to write, NAME.html, or a folder for report.html. Default: report.html in the first DIR.",
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Heading of the page.")] = "Report",
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Follow runs: serve a page that reloads itself, on this machine only, until Ctrl-C."
        ),
    ] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port of --watch. [a free one]", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Summarize runs, exports and measurements on one self-contained page, with CSV and Markdown next to it.

    Examples: irepdeploy report runs results --open; irepdeploy report runs/search --watch --open
    """
    if watch:
        if out is not None or as_json:
            raise InputError("--watch serves a page and writes none", hint="leave out --out and --json")
        _watch(folders, title, port or 0, show=show)
        return
    if port is not None:
        raise InputError("only --watch has a port", where="--port", hint="add --watch, or leave it out")
    from .write import write_report

    written = write_report(folders, out=out, title=title)
    if as_json:
        print_json(written.to_dict())
    else:
        say(written.content.verdict.text)
        for path in written.files:
            say(f"wrote {path}")
    if show:
        _open(written.files[0].resolve().as_uri())


def _watch(folders: list[Path], title: str, port: int, *, show: bool) -> None:
    from .watch import Watched, server_of

    watched = Watched(folders, title)
    # Report a missing folder now, not in the browser.
    _ = watched.state
    with server_of(watched, port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        say(f"serving {address} until Ctrl-C")
        if show:
            _open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt as error:
            # SIGTERM and SIGHUP raise subclasses of it, which have their own exit codes.
            if type(error) is not KeyboardInterrupt:
                raise
            log("stopped")


def _open(address: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(address)
    except webbrowser.Error:
        opened = False
    if not opened:
        log(f"no browser to open: {address}")
