"""The `demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.cli.completion import names
from irepdeploy.cli.options import JsonOption, OutOption

__all__ = ["demo"]


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe overrides, such as scale=smoke or seed=1."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="digits, or fashion_mnist (needs the Debian package dataset-fashion-mnist).",
            autocompletion=names(lambda: ("digits", "fashion_mnist")),
        ),
    ] = "digits",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Check in seconds that outputs stay equal: one network, no scores or latencies."),
    ] = False,
    out: OutOption = Path("demo"),
    json: JsonOption = False,
) -> None:
    """Search, train, fuse, export, verify and measure a small network on real images.

    Every command is printed before it runs, so that you can repeat each step. Examples: irepdeploy demo --quick;
    irepdeploy demo --data fashion_mnist --out demo-fashion
    """
    from irepdeploy.cli.demo import run_demo
    from irepdeploy.cli.demo_summary import print_summary
    from irepdeploy.console import print_json

    summary = run_demo(out, overrides or [], data, quick)
    if json:
        print_json(summary.to_dict())
    else:
        print_summary(summary)
