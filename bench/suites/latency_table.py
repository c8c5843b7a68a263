"""Latency tables that list the paper's figures next to ours, shared by the suites of this stage."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irepdeploy.board.trt_library import load_tensorrt
from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError, counted
from irepdeploy.runs.record import Record
from irepdeploy.runs.suite import SuiteReport, SuiteRequest

from ..latency import bench_models
from ..request import BenchRequest
from ..subject import MODULE, Subject
from .condition import AS_IT_STANDS, ENGINE_RUNNER, Condition, condition_of, conditions_for
from .engines import built_engines
from .graphs import Graph, distinct_graphs
from .latency_row import LatencyRow, Measured, Taken, columns
from .own_models import own_models, own_rows
from .variants import KEPT, Variant
from .verdict import verdicts

__all__ = ["LatencyTable", "latency_table"]

_UNSTEADY = "u: the warm-up never became steady (another load, or clocks that move); the interval is of this run alone."
_PUBLISHED = "top-1: the paper's figure, not measured here, unless a row says otherwise."


@dataclass(frozen=True)
class _Effort:
    """Fewest samples and seconds of measurement for each network."""

    samples: int
    seconds: float


# At least 662 samples are needed to claim a 99th percentile.
_EFFORTS = {"smoke": _Effort(6, 0.0), "small": _Effort(64, 2.0), "paper": _Effort(662, 10.0)}


@dataclass(frozen=True)
class LatencyTable:
    """The definition of a suite.

    Attributes:
        reference: Label of the reference row.
        smoke: Labels of the rows at scale "smoke", including the reference.
    """

    name: str
    title: str
    variants: Sequence[Variant]
    reference: str
    smoke: Sequence[str]
    notes: Sequence[str] = ()


def latency_table(table: LatencyTable, request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Measure a table: each distinct graph once, and the user's models, all interleaved."""
    wanted = _wanted(table, request)
    conditions = conditions_for(request)
    runners = list(dict.fromkeys(condition.runner for condition in conditions))
    own = own_models(request.models, runners)
    if ENGINE_RUNNER in runners:
        # Fail now rather than after minutes of building networks.
        load_tensorrt("tensorrt")
    opening = display.task("networks", len(wanted))
    graphs = distinct_graphs(wanted, request.seed, lambda label: opening.advance(1, label))
    effort = _EFFORTS[request.scale]
    states = list(dict.fromkeys(condition.tf32 for condition in conditions))
    measuring = display.task("latencies", 100 * len(states))
    taken: dict[tuple[str, str], Record] = {}
    for tf32 in states:
        with request.folder("engines") if ENGINE_RUNNER in runners else nullcontext() as folder:
            subjects = [*_subjects(table, graphs, runners, folder, request.seed, tf32), *own]
            bench = BenchRequest(
                suite=table.name,
                out=request.out,
                seed=request.seed,
                threads=request.threads or 1,
                device=request.device,
                tf32=tf32,
                min_seconds=effort.seconds if request.seconds is None else request.seconds,
                min_samples=effort.samples,
            )
            records = bench_models(subjects, bench, _hundredths(measuring.advance))
        for record in records:
            condition = condition_of(record, conditions)
            if condition is not None:
                taken[record.model, condition.title] = record
    rows = [*_rows(table, graphs, taken, conditions), *own_rows(own, taken, conditions, _home(table, graphs))]
    return SuiteReport(
        f"{table.title}: batch 1, fp32, {_place(request)}",
        columns(conditions),
        [row.cells(conditions) for row in rows],
        [*verdicts(rows, conditions, table.reference), _PUBLISHED, _UNSTEADY, *_notes(table, graphs)],
        {
            "suite": table.name,
            "reference": table.reference,
            "rows": [row.to_json() for row in rows],
            "graphs": [graph.facts() for graph in graphs],
        },
    )


def _place(request: SuiteRequest) -> str:
    if request.device == "cuda":
        return "GPU"
    threads = request.threads or 1
    return f"CPU, {counted(threads, 'thread')}"


def _wanted(table: LatencyTable, request: SuiteRequest) -> list[Variant]:
    if not request.only:
        return [each for each in table.variants if request.scale != "smoke" or each.label in table.smoke]
    labels = {text for each in table.variants for text in (each.label, each.row.label)}
    for text in request.only:
        if text not in labels:
            near = difflib.get_close_matches(text, labels, n=2)
            # Separated by semicolons, since labels contain commas.
            hint = f"did you mean {' or '.join(near)}?" if near else f"some of {'; '.join(sorted(labels))}"
            raise InputError(f"unknown row {text!r}", where="--only", hint=hint)
    keep = {*request.only, table.reference}
    return [each for each in table.variants if keep & {each.label, each.row.label}]


def _subjects(
    table: LatencyTable,
    graphs: Sequence[Graph],
    runners: Sequence[str],
    folder: Path | None,
    seed: int,
    tf32: bool,
) -> list[Subject]:
    """Return the subjects of the suite's own graphs; engines, built with or without TF32, go to `folder`."""
    subjects: list[Subject] = []
    for runner in runners:
        folds = runner not in AS_IT_STANDS
        fitting = [
            (graph, {**graph.facts(_kept(graph, graphs) if folds else ()), "reference": table.reference})
            for graph in graphs
            if not (folds and graph.state == KEPT)
        ]
        if runner == ENGINE_RUNNER:
            assert folder is not None
            subjects += built_engines(fitting, folder, seed=seed, tf32=tf32)
            continue
        subjects += [
            Subject(graph.label, MODULE, "network, random weights", runner, module=graph.module, facts=facts)
            for graph, facts in fitting
        ]
    return subjects


def _kept(graph: Graph, graphs: Sequence[Graph]) -> list[Variant]:
    """Return the variants with BN kept that export to this graph."""
    if graph.state:
        return []
    return [
        each
        for other in graphs
        if other.structure == graph.structure and other.state == KEPT
        for each in other.variants
    ]


def _home(table: LatencyTable, graphs: Sequence[Graph]) -> str:
    return next(graph.label for graph in graphs if any(each.label == table.reference for each in graph.variants))


def _rows(
    table: LatencyTable, graphs: Sequence[Graph], taken: Taken, conditions: Sequence[Condition]
) -> list[LatencyRow]:
    home = _home(table, graphs)
    places = {each.label: graph for graph in graphs for each in graph.variants}
    folded = {graph.structure: graph for graph in graphs if not graph.state}
    paper_ms = next(each.row.ms for each in table.variants if each.label == table.reference)
    rows = []
    for variant in table.variants:
        if variant.label not in places:
            continue
        graph = places[variant.label]
        measured = {}
        for condition in conditions:
            # If the exporter of a runner folds BN, "BN kept" is the same as the folded graph.
            at = folded.get(graph.structure) if graph.state == KEPT and condition.runner not in AS_IT_STANDS else graph
            record = None if at is None else taken.get((at.label, condition.title))
            if record is not None:
                measured[condition.title] = Measured.of(record, taken.get((home, condition.title)))
        ms = variant.row.ms if variant.published else None
        rows.append(
            LatencyRow(
                label=variant.label,
                family=variant.row.family,
                graph=graph.mark,
                params=graph.params,
                top1=variant.row.top1,
                top1_source=variant.row.top1_source,
                paper_ms=ms,
                paper_ratio=None if ms is None or paper_ms is None else ms / paper_ms,
                measured=measured,
            )
        )
    return rows


def _notes(table: LatencyTable, graphs: Sequence[Graph]) -> list[str]:
    notes: dict[str, list[str]] = {}
    for graph in graphs:
        facts: list[dict[str, Any]] = graph.facts()["rows"]
        for row in facts:
            for note in row["notes"]:
                labels = notes.setdefault(note, [])
                if row["row"] not in labels:
                    labels.append(row["row"])
    shared = [
        f"{graph.mark}: one graph, measured once: {'; '.join(each.label for each in graph.variants)}."
        for graph in graphs
        if len(graph.variants) > 1
    ]
    return [*table.notes, *shared, *(f"{', '.join(labels)}: {note}." for note, labels in notes.items())]


def _hundredths(advance: Callable[[int], None]) -> Callable[[float], None]:
    """Return a callback that advances in whole hundredths; drawing more often would disturb the measurement."""
    done = 0

    def on_round(share: float) -> None:
        nonlocal done
        now = int(100 * share)
        if now > done:
            advance(now - done)
            done = now

    return on_round
