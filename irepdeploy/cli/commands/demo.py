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
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, such as scale=smoke or seed=1."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="digits, or fashion_mnist with the Debian package dataset-fashion-mnist.",
            autocompletion=names(lambda: ("digits", "fashion_mnist")),
        ),
    ] = "digits",
    quick: Annotated[
        bool, typer.Option("--quick", help="Prove the outputs only: one network, no scores or latencies, in seconds.")
    ] = False,
    out: OutOption = Path("demo"),
    json: JsonOption = False,
) -> None:
    """Search, train, fuse, export, verify and measure a small network on real images.

    Prints every command it runs, so that each can be repeated by itself. Examples: irepdeploy demo --quick;
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
