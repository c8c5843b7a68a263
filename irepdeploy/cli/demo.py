"""The demo: search, train, fuse, export, verify, measure, plot and report, on the embedded digits by default.

The demo shows that every stage runs and that outputs stay the same. It does not compare accuracies, because one seed
per network is not enough for that.

Each step is a command line that the user could type. The demo reaches the stages only through their commands and the
files they write.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irepdeploy.board.protocol import ratio, summary
from irepdeploy.cli.application import invoke
from irepdeploy.cli.demo_summary import DEMO_DATA, DemoSummary
from irepdeploy.console import command_line, log, without_hints
from irepdeploy.errors import InputError, counted
from irepdeploy.files import write_bytes, write_json
from irepdeploy.folders import output_folder
from irepdeploy.network.checkpoint import load, read
from irepdeploy.profiling.counts import count
from irepdeploy.profiling.training_cost import training_cost
from irepdeploy.reparam.comparator import TOLERANCES
from irepdeploy.runs.journal import SearchJournal
from irepdeploy.runs.record import read as read_records
from irepdeploy.runs.result import SearchFigures, TrainingResult
from irepdeploy.verify.certificate import Certificate

__all__ = ["run_demo"]

# Overrides that make each data set's recipe run in a few minutes on two cores.
_SMALL: dict[str, tuple[str, ...]] = {
    "digits": (),
    "fashion_mnist": (
        "data.options.train=2000",
        "data.options.val=1000",
        "search.population=12",
        "search.evolutions=4",
        "train.epochs=8",
    ),
}

# The quick demo makes the same checks as the full one, but compares and measures nothing.
_QUICK_STEPS = ("search", "train", "export", "verify")
_QUICK = ("scale=smoke", "search.evolutions=1", "train.epochs=1", "data.options.train=50", "data.options.val=50")

# Labels of the latency table; the first is the reference.
_PLAIN_BN = "plain, BN kept"
_PLAIN_FOLDED = "plain, BN folded"
_BRANCHES = "branches (train state)"
_FUSED = "branches, fused"
_SHARE_OF_COST = 10


def run_demo(out: Path, overrides: Sequence[str] = (), data: str = "digits", quick: bool = False) -> DemoSummary:
    """Run the demo.

    Args:
        out: Folder for all results.
        overrides: Recipe overrides, as ``KEY=VALUE``.
        data: Data set: "digits", or "fashion_mnist", of which a small part is used.
        quick: Only search, train, export and verify, on a few images, in seconds.

    Returns:
        The results, which are also written to ``out/summary.json``.

    Raises:
        InputError: There is no demo for this data set.
        MissingError: The data set is not installed.
    """
    if data not in DEMO_DATA:
        raise InputError(f"no demo of {data!r}", where="--data", hint=f"one of {', '.join(DEMO_DATA)}")
    scaled = any(each.startswith("scale=") for each in overrides)
    with output_folder(out):
        settings = _QUICK if quick else () if scaled else _SMALL[data]
        return _run_demo(out, [*settings, *overrides], data, quick)


def _run_demo(out: Path, overrides: list[str], data: str, quick: bool) -> DemoSummary:
    started = time.perf_counter()
    commands = _quick_commands(out, overrides, data) if quick else _commands(out, overrides, data)
    steps = [*(share for share, _ in commands), *(() if quick else (_SHARE_OF_COST,))]
    printed = ""
    for index, (_, command) in enumerate(commands):
        log(f"{_position(index, steps, started)}$ {command_line(*command)}")
        printed += _run(command, out)
        write_bytes(out / "log.txt", printed.encode())
    if not quick:
        log(f"{_position(len(commands), steps, started)}measuring what training costs ...")
    cost = [] if quick else _cost(out)
    result = DemoSummary(
        folder=str(out),
        data=SearchJournal.read(out / "search").start.recipe["data"]["name"],
        seconds=time.perf_counter() - started,
        accuracy=[] if quick else _accuracy(out),
        search=_search(out).to_dict(),
        equality=_equality(out),
        latency=[] if quick else _latency(out),
        cost=cost,
        files=_files(out, quick),
        metric=_search(out).by.model_dump(),
        smoke="scale=smoke" in overrides,
        quick=quick,
    )
    write_json(out / "summary.json", result.to_dict())
    return result


def _commands(out: Path, overrides: list[str], data: str) -> list[tuple[int, list[str]]]:
    def at(*parts: str) -> str:
        path = str(out.joinpath(*parts))
        return f"./{path}" if path.startswith("-") else path

    new = ["--overwrite"]
    models = [
        f"{_PLAIN_BN}={at('plain/best.pt')}",
        f"{_PLAIN_FOLDED}={at('export-plain/fused.pt')}",
        f"{_BRANCHES}={at('irep/best.pt')}",
        f"{_FUSED}={at('export/fused.pt')}",
        f"{_PLAIN_FOLDED}={at('export-plain/model.onnx')}",
        f"{_FUSED}={at('export/model.onnx')}",
    ]
    # Each command with its share of the total time, for estimating the remaining time.
    return [
        (22, ["search", data, *overrides, "--out", at("search"), *new]),
        (2, ["train", data, *overrides, "branches=none", "--out", at("plain"), *new]),
        (8, ["train", data, *overrides, "--arch", at("search/best.json"), "--out", at("irep"), *new]),
        (6, ["export", at("plain/best.pt"), "--out", at("export-plain")]),
        (6, ["export", at("irep/best.pt"), "--out", at("export")]),
        (2, ["verify", at("irep/best.pt"), at("export/model.onnx")]),
        (10, ["bench", *models, "--seconds", "1", "--out", at("bench")]),
        (3, ["plot", "arch", at("search"), "--out", at("architecture.png")]),
        (1, ["plot", "search", at("search"), "--out", at("search.png")]),
        (2, ["report", *map(at, ("bench", "search", "irep", "export")), "--out", at("report.html")]),
    ]


def _quick_commands(out: Path, overrides: list[str], data: str) -> list[tuple[int, list[str]]]:
    """Return the commands of the quick demo, which leaves out the plain network."""
    commands = [(share, command) for share, command in _commands(out, overrides, data) if command[0] in _QUICK_STEPS]
    plain = {str(out / "plain"), str(out / "export-plain")}
    return [(share, command) for share, command in commands if not plain & set(command)]


def _position(index: int, shares: Sequence[int], started: float) -> str:
    """Return the number of the step and an estimate of the remaining time."""
    elapsed, done = time.perf_counter() - started, sum(shares[:index])
    left = f", about {elapsed / done * sum(shares[index:]):.0f} s left" if done else ""
    return f"[{index + 1}/{len(shares)}{left}] "


def _run(command: list[str], out: Path) -> str:
    """Run one command and return its output for log.txt; it is not shown, since the summary repeats it."""
    if command[0] == "bench":
        # Remove the records of an earlier demo: their samples were not interleaved with the new ones.
        (out / "bench" / "records.jsonl").unlink(missing_ok=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), without_hints():
        invoke(command)
    return f"$ {command_line(*command)}\n{printed.getvalue()}\n"


def _accuracy(out: Path) -> list[dict[str, Any]]:
    rows = []
    for network, trained in (("plain", "plain"), ("with branches", "irep")):
        result = TrainingResult.read(out / trained / "result.json")
        test = result.sets["test"]
        rows.append(
            {
                "network": network,
                "branches": result.branches,
                "val_accuracy": result.val_accuracy,
                "test_accuracy": result.test_accuracy,
                "low": test.low,
                "high": test.high,
            }
        )
    return rows


def _search(out: Path) -> SearchFigures:
    return SearchFigures.read(out / "search" / "result.json")


def _equality(out: Path) -> list[dict[str, Any]]:
    certificate = Certificate.load(out / "export" / "certificate.json")
    proof = certificate.blocks["float64"]
    blocks = {
        "from": f"{counted(certificate.blocks['count'], 'block')}, float64",
        "to": "convolutions",
        "error": proof["max_rel_error"],
        "allowed": TOLERANCES["float64"].max_rel_error,
        # An export whose blocks differ writes no certificate.
        "ok": True,
    }
    hops = [
        {"from": hop.source, "to": hop.result, "error": hop.error, "allowed": hop.allowed, "ok": hop.ok}
        for hop in certificate.hops
    ]
    return [blocks, *hops]


def _latency(out: Path) -> list[dict[str, Any]]:
    records = read_records(out / "bench" / "records.jsonl")
    # Ratios are relative to the first network of the same runner, because runners differ among themselves.
    references: dict[str, list[int]] = {}
    rows = []
    for record in records:
        reference = references.setdefault(record.runner["runner"], record.samples_ns)
        times = ratio(record.samples_ns, reference, seed=0)
        rows.append(
            {
                "network": record.model,
                "runner": record.runner["runner"],
                "median_ms": summary(record.samples_ns).median_ms,
                "ratio": times.value,
                "low": times.low,
                "high": times.high,
                "steady": record.warmup["steady"],
            }
        )
    return rows


def _cost(out: Path) -> list[dict[str, Any]]:
    checkpoints = {"plain": out / "plain" / "best.pt", "with branches": out / "irep" / "best.pt"}
    recipe = SearchJournal.read(out / "search").start.recipe
    batch = recipe["train"]["batch_size"]
    steps = -(-recipe["data"]["options"]["train"] // batch)
    measured = training_cost(checkpoints, batch)
    rows = []
    for name, path in checkpoints.items():
        counts = count(load(path), tuple(read(path)["origin"]["input_shape"]))
        rows.append(
            {
                "network": name,
                "params": counts.params,
                "macs": counts.macs,
                "seconds_per_epoch": measured[name].seconds_per_step * steps,
                "peak_memory_bytes": measured[name].peak_memory_bytes,
            }
        )
    return rows


def _files(out: Path, quick: bool) -> list[str]:
    names = {"log.txt", "summary.json"}
    if not quick:
        names |= {"architecture.png", "search.png", "report.html", "report.csv", "report.md"}
    folders = ("search", "plain", "irep", "export-plain", "export", "bench")
    inside = [path for folder in folders for path in (out / folder).rglob("*") if path.is_file()]
    populations = {path.parent for path in inside if path.parent.name == "population"}
    files = {*(out / name for name in names), *(path for path in inside if path.parent not in populations)}
    return [*sorted(map(str, files)), *sorted(f"{path} ({len(list(path.iterdir()))} files)" for path in populations)]
