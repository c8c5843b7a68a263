"""Run a suite standalone, without the packages of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from irepdeploy.console import progress, table
from irepdeploy.errors import IrepdeployError
from irepdeploy.runs.suite import SCALES, Suite, SuiteRequest

__all__ = ["run_alone"]


def run_alone(
    suite: Suite, name: str, arguments: Sequence[str] | None = None, *, rows: str = "", seconds: str = ""
) -> int:
    """Run a suite standalone, with options from the command line, and return an exit code.

    `rows` and `seconds` are the help texts of ``--only`` and ``--seconds``; an empty text omits the option.
    """
    parser = argparse.ArgumentParser(prog=name, description=suite.__doc__)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder to add records.jsonl to")
    if seconds:
        parser.add_argument("--seconds", type=float, help=seconds)
    if rows:
        parser.add_argument("--only", nargs="*", default=(), help=rows)
    try:
        request = SuiteRequest(**vars(parser.parse_args(arguments)))
        with progress() as display, request.own_folder():
            report = suite(request, display)
    except IrepdeployError as error:
        print(f"error: {error.line}", file=sys.stderr)
        return error.exit_code
    table(report.title, report.columns, report.rows)
    print("\n".join(report.notes))
    return 0
