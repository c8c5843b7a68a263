"""The results of a demo: the content of summary.json and the printed summary."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from irepdeploy.console import command_line, log, say, table
from irepdeploy.runs.schema import MetricFacts

__all__ = ["DEMO_DATA", "DemoSummary", "print_summary"]

DEMO_DATA = {"digits": "handwritten digits", "fashion_mnist": "Fashion-MNIST"}


@dataclass(frozen=True)
class DemoSummary:
    """The results of a demo, as written to summary.json.

    Attributes:
        data: Name of the data set.
        accuracy: Validation and test score of each network; the test score has a 95 % confidence interval.
        search: Figures of the search: score, number of candidates, seconds, spread of alpha and beta.
        equality: Largest relative error, tolerance and verdict of each hop.
        latency: Median latency in ms and its ratio to the plain network, by network and runner.
        cost: Parameters, MACs, seconds per epoch and peak memory in bytes of training, plain and with branches.
        metric: Name and unit of the scores.
        quick: Whether this was the quick demo, which leaves `accuracy`, `latency` and `cost` empty.
        smoke: Whether the scale is too small for the scores to be meaningful.
    """

    folder: str
    data: str
    seconds: float
    accuracy: list[dict[str, Any]]
    search: dict[str, Any]
    equality: list[dict[str, Any]]
    latency: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    files: list[str]
    metric: dict[str, str]
    smoke: bool = False
    quick: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as the JSON object of summary.json."""
        return asdict(self)


def print_summary(result: DemoSummary) -> None:
    """Print the tables, the written files and the next command."""
    out = Path(result.folder)
    if not result.quick:
        _print_accuracy(result)
    say()
    table(
        "Are the outputs the same? (largest relative error)",
        ["from", "to", "error", "allowed", "verdict"],
        [
            [row["from"], row["to"], f"{row['error']:.1e}", f"{row['allowed']:.0e}", "same" if row["ok"] else "DIFFER"]
            for row in result.equality
        ],
    )
    if not result.quick:
        _print_measured(result)
    say()
    say(f"Done in {result.seconds:.0f} s. Written:")
    for file in result.files:
        say(f"  {file}")
    again = command_line("verify", out / "irep" / "best.pt", out / "export" / "model.onnx")
    log(f"next: {again.replace('irepdeploy', _program(), 1)}")


def _print_accuracy(result: DemoSummary) -> None:
    metric = MetricFacts(**result.metric)

    def score(value: float) -> str:
        # One decimal is enough, because the test set is small.
        return f"{value:.1%}" if metric.unit == "%" else metric.text(value)

    say()
    if result.smoke:
        say("scale=smoke: these networks are barely trained; their scores are meaningless.")
    table(
        f"{metric.name[:1].upper()}{metric.name[1:]} on {DEMO_DATA.get(result.data, result.data)}, fused, one seed",
        ["network", "branches", "validation", "test", "95 % interval"],
        [
            [
                row["network"],
                row["branches"],
                score(row["val_accuracy"]),
                score(row["test_accuracy"]),
                "-" if row["low"] is None else f"{score(row['low'])} to {score(row['high'])}",
            ]
            for row in result.accuracy
        ],
    )
    say("One seed and one recipe cannot show whether branches pay off: see docs/does-it-pay.md for a study with")
    say("separately tuned settings, five seeds and 10,000 test images.")
    found = result.search
    say(
        f"search: {found['evaluations']} candidates scored in {found['seconds']:.0f} s; spread of sigmoid(alpha)"
        f" {found['alpha_spread']:.4f}, of sigmoid(beta) {found['beta_spread']:.4f}"
    )


def _print_measured(result: DemoSummary) -> None:
    say()
    table(
        "Latency, batch 1, one thread, measured in turn",
        ["network", "runner", "median ms", "x first of runner", "95 % interval", "warm-up"],
        [
            [
                row["network"],
                row["runner"],
                f"{row['median_ms']:.3f}",
                f"{row['ratio']:.2f}",
                _interval(row),
                "steady" if row["steady"] else "unsteady",
            ]
            for row in result.latency
        ],
    )
    say("The intervals describe this run only; another run may lie outside them. Unsteady: the machine was not idle.")
    say("The fused network and the plain one with BN folded are the same graph: any difference is noise.")
    say("The difference between the first two rows is due to folding alone, which needs no branches.")
    say()
    table(
        "Training cost of the branches",
        ["network", "parameters", "MACs", "seconds per epoch", "peak memory MB"],
        [
            [
                row["network"],
                f"{row['params']:,}",
                f"{row['macs']:,}",
                f"{row['seconds_per_epoch']:.3f}",
                "unknown" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e6:.0f}",
            ]
            for row in result.cost
        ],
    )


def _program() -> str:
    """Return how the user calls the program; after `make demo` it is in a virtual environment that is not on PATH."""
    return "irepdeploy" if shutil.which("irepdeploy") else shlex.quote(sys.argv[0])


def _interval(row: dict[str, Any]) -> str:
    return "-" if row["low"] is None or row["low"] == row["high"] else f"{row['low']:.2f} to {row['high']:.2f}"
