"""Run a suite by itself, without the packages of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from irepdeploy.board.protocol import Ratio
from irepdeploy.console import progress, table
from irepdeploy.errors import IrepdeployError
from irepdeploy.runs.suite import SCALES, Suite, SuiteRequest

__all__ = ["has_bf16", "interval", "place", "run_alone"]


def run_alone(suite: Suite, name: str, arguments: Sequence[str] | None = None, *, nets: bool = False) -> int:
    """Run a suite by itself, its options read from the command line, and return an exit code."""
    parser = argparse.ArgumentParser(prog=name, description=suite.__doc__)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder to add records.jsonl to")
    if nets:
        parser.add_argument("--only", nargs="*", default=(), help="networks")
    try:
        with progress() as display:
            report = suite(SuiteRequest(**vars(parser.parse_args(arguments))), display)
    except IrepdeployError as error:
        print(f"error: {error.line}", file=sys.stderr)
        return error.exit_code
    table(report.title, report.columns, report.rows)
    print("\n".join(report.notes))
    return 0


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def place(request: SuiteRequest) -> str:
    """Name what a suite ran on."""
    if request.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{request.threads or torch.get_num_threads()} CPU threads"


def interval(value: Ratio) -> str:
    """Format an interval as "1.31 to 1.67", or "-" of too few samples."""
    return "-" if value.low is None else f"{value.low:.2f} to {value.high:.2f}"
