"""Batch-1 latency of all rows of Tables 2 and 3 on a GPU, each compared with the reference network of its table.

Each row is measured in alternation with the reference (A B A B) and recorded at once, so that an interrupted run keeps
its rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from irepdeploy.board.protocol import PROTOCOL_VERSION, measure, ratio, summary
from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.system import system_block
from irepdeploy.console import say
from irepdeploy.errors import ModelError, RunError
from irepdeploy.folders import make_folder
from irepdeploy.parsing.json_lines import append_line
from irepdeploy.reparam.origin import origin_of
from irepdeploy.runtime.torch_compile_runner import TorchCompileRunner
from irepdeploy.runtime.torch_graph_runner import TorchGraphRunner
from irepdeploy.runtime.torch_runner import TorchRunner

from .suites.published import REP, TABLE2, TABLE3, PaperRow
from .suites.variants import FOLDED, KEPT, Variant

__all__ = ["measure_latencies"]


class _Table(NamedTuple):
    """Rows, the reference row, and the row whose ratio the paper's text quotes (17.6x, 18.8x)."""

    name: str
    rows: Sequence[PaperRow]
    reference: str
    quoted: str = "DARTS (second)"


_TABLES = (_Table("Table 2", TABLE2, "IrepVGG-16"), _Table("Table 3", TABLE3, "IrepResNet-18"))
# Rows of a dry run: one plain network per table, besides the reference.
_FEW = ("VGG",)


def measure_latencies(
    device: str, out: Path, *, tf32: bool = False, compiled: bool = False
) -> tuple[str, Mapping[str, Any]]:
    """Measure every row, eager and as a CUDA graph, or `compiled`; return a summary line, medians and ratios.

    Each row is printed, and appended to ``records.jsonl`` in `out` with its raw samples, as soon as it is measured.
    """
    folder, system = make_folder(out), system_block()
    figures: dict[str, Any] = {}
    for each in _TABLES if device == "cuda" else _TABLES[:1]:
        rows = {row.label: row for row in each.rows if device == "cuda" or row.label in (*_FEW, each.reference)}
        reference = rows.pop(each.reference)
        with _opened(reference, device, tf32, compiled) as beside:
            for row in (reference, *rows.values()):
                try:
                    figures[f"{each.name}, {row.label}"] = _row(
                        each, row, reference, beside, device, tf32, compiled, folder, system
                    )
                except (ModelError, RunError) as error:
                    say(f"{each.name}, {row.label}: {error.line}")
                    figures[f"{each.name}, {row.label}"] = error.line
    return _said(figures), figures


Calls = dict[str, Callable[[], None]]


def _row(
    table: _Table,
    row: PaperRow,
    reference: PaperRow,
    beside: Calls,
    device: str,
    tf32: bool,
    compiled: bool,
    folder: Path,
    system: Mapping[str, Any],
) -> dict[str, Any]:
    itself = row is reference
    with contextlib.nullcontext(beside) if itself else _opened(row, device, tf32, compiled) as calls:
        names = {f"{row.label} {kind}": call for kind, call in calls.items()}
        others = {} if itself else {f"{reference.label} {kind}": call for kind, call in beside.items()}
        fast = device == "cpu"
        limits: dict[str, Any] = {"min_samples": 3, "min_seconds": 0.0, "max_samples": 3} if fast else {}
        limits = limits or {"min_samples": 100, "min_seconds": 0.2, "max_samples": 2000}
        measured = measure({**others, **names}, seed=0, warmup_min_seconds=0.0 if fast else 0.1, **limits)
    samples = {name: each.samples_ns for name, each in measured.items()}
    append_line(
        folder / "records.jsonl",
        {
            "suite": "device-check latency",
            "table": table.name,
            "network": row.label,
            "net": row.net,
            "batch": 1,
            "tf32": tf32,
            "samples_ns": samples,
            "device_samples_ns": {name: each.device_samples_ns for name, each in measured.items()},
            "warmup": {name: each.steady for name, each in measured.items()},
            "paper_ms": row.ms,
            "protocol_version": PROTOCOL_VERSION,
            "created": datetime.now(UTC).isoformat(),
            "system": system,
        },
    )
    found: dict[str, Any] = {"paper_ms": row.ms, "paper_x": _over(row.ms, reference.ms)}
    for kind in calls:
        own = samples[f"{row.label} {kind}"]
        found[f"{kind}_ms"] = summary(own).median_ms
        found[f"{kind}_x"] = 1.0 if itself else ratio(own, samples[f"{reference.label} {kind}"], 0).value
    text = ", ".join(f"{kind} {found[f'{kind}_ms']:.3f} ms, {found[f'{kind}_x']:.2f} x" for kind in calls)
    say(f"{table.name}, {row.label}: {text}; paper {row.ms} ms, {found['paper_x']:.2f} x")
    return found


@contextlib.contextmanager
def _opened(row: PaperRow, device: str, tf32: bool, compiled: bool) -> Any:
    """Yield the row's calls by runner, on one random input."""
    net, shape = _network(row)
    specs = [TensorSpec("input", (1, *shape))]
    kinds: dict[str, type[TorchRunner]] = {"compiled": TorchCompileRunner} if compiled else {"eager": TorchRunner}
    if device == "cuda" and not compiled:
        kinds["graph"] = TorchGraphRunner
    feeds = {"input": np.random.default_rng(0).standard_normal((1, *shape)).astype("float32")}
    with contextlib.ExitStack() as stack:
        calls: Calls = {}
        for kind, runner in kinds.items():
            opened = stack.enter_context(runner(net, specs, ["logits"], device=device, tf32=tf32))
            calls[kind] = opened.bind(feeds)
        yield calls


def _network(row: PaperRow) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network in the form that the paper timed; with fused branches it is the plain network."""
    net = Variant(row, FOLDED if row.family == REP else KEPT).build(0)
    shape = origin_of(net).input_shape
    assert shape is not None
    return net, tuple(shape)


def _over(ms: float | None, reference: float | None) -> float:
    return float("nan") if ms is None or reference is None else ms / reference


def _said(figures: Mapping[str, Any]) -> str:
    measured = [each for each in figures.values() if isinstance(each, dict)]
    parts = [f"{len(measured)} of {len(figures)} rows"]
    for table in _TABLES:
        row = figures.get(f"{table.name}, {table.quoted}")
        if isinstance(row, dict):
            keys = [key for key in row if key.endswith("_x") and key != "paper_x"]
            ours = " and ".join(f"{row[key]:.1f} ({key.removesuffix('_x')})" for key in keys)
            said = f"{table.name}: {table.quoted} takes {ours} times {table.reference}"
            parts.append(f"{said}, in the paper {row['paper_x']:.1f}")
    return "; ".join(parts)
