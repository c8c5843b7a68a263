"""Latency of models beside each other: one run, one input, interleaved."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from irepdeploy.board.feeds import check_finite
from irepdeploy.board.protocol import PROTOCOL_VERSION, Measurement, measure
from irepdeploy.board.runner import without_graph
from irepdeploy.board.system import machine_state, system_block
from irepdeploy.console import log
from irepdeploy.errors import InputError
from irepdeploy.folders import output_folder
from irepdeploy.runs.record import Record, append
from irepdeploy.verify.onnx_process import start_onnx_process, time_limit

from .feeds import Feeds, check_one_shape, check_shape_names, feeds_of
from .opened import OpenedSubject, Opener
from .request import BenchRequest
from .subject import ONNX, Subject, check_keys

__all__ = ["RECORDS", "bench_models"]

RECORDS = "records.jsonl"


def bench_models(
    subjects: Sequence[Subject], request: BenchRequest, on_round: Callable[[float], None] | None = None
) -> list[Record]:
    """Measure all subjects interleaved, on one seeded random input.

    On ONNX Runtime a checkpoint or network is written as ONNX in memory, as it stands. There is one record per subject
    and batch size, in the order of `subjects`. `on_round` gets the share of the work that is done, from 0 to 1.

    Raises:
        InputError: If a model is damaged, takes another input shape than the others or cannot take the batch size,
            has dynamic dimensions that the request does not give, or returns values that are not finite.
        MissingError: If something that a runner needs is not installed.
        RunError: If an ONNX file takes longer than ``request.timeout_s`` to load and run once, or too much memory.
        OutputError: If ``request.out`` cannot be written.
    """
    check_keys(subjects)
    with contextlib.nullcontext() if request.out is None else output_folder(request.out) as folder:
        records = _records(subjects, request, on_round)
        if folder is not None:
            for record in records:
                append(folder / RECORDS, record)
    return records


def _records(
    subjects: Sequence[Subject], request: BenchRequest, on_round: Callable[[float], None] | None
) -> list[Record]:
    opener = Opener(request, spinning=_may_spin(subjects, request.threads))
    batches = request.batch_sizes
    with contextlib.ExitStack() as stack:
        if any(subject.kind == ONNX for subject in subjects):
            start_onnx_process()
        opened = [_activated(opener.open(subject), opener, stack) for subject in subjects]
        fed_by_batch = _feeds(opened, request, batches)
        # After the runners are up, so that the thread counts are those of the measurement.
        system = system_block()
        by_batch = []
        for index, feeds in enumerate(fed_by_batch):
            share = _share(on_round, index, len(batches))
            by_batch.append(_measured(opened, feeds, request, system, share))
    return [each[index] for index in range(len(subjects)) for each in by_batch]


def _activated(opened: OpenedSubject, opener: Opener, stack: contextlib.ExitStack) -> OpenedSubject:
    if opened.subject.kind == ONNX:
        _try_out(opened, opener)
    stack.enter_context(opened.runner)
    return opened


def _try_out(opened: OpenedSubject, opener: Opener) -> None:
    """Run an ONNX file once where it can be ended: nothing ends one that is measured, in this process."""
    request = opener.request
    # The largest batch too, for memory; of what is for a GPU, only whether it ends.
    on_cpu = opened.subject.runner == "ort-cpu"
    batches = request.batch_sizes if on_cpu else request.batch_sizes[:1]
    with time_limit(request.timeout_s), contextlib.ExitStack() as stack:
        trial = replace(opened, runner=opener.trial(opened.subject))
        try:
            stack.enter_context(trial.runner)
            for batch in dict.fromkeys((batches[0], batches[-1])):
                try:
                    feeds = feeds_of(trial, request, batch)
                except InputError:
                    # `_feeds` raises it, once every --input-shape is known to name an input.
                    return
                trial.runner.infer(feeds.arrays)
        except InputError:
            # The CPU may lack operators that a GPU has.
            if on_cpu:
                raise


def _feeds(opened: Sequence[OpenedSubject], request: BenchRequest, batches: Sequence[int | None]) -> list[list[Feeds]]:
    """Return the checked inputs of each subject by batch size."""
    check_shape_names(opened, request)
    by_batch = [[feeds_of(each, request, batch) for each in opened] for batch in batches]
    for feeds in by_batch:
        check_one_shape(opened, feeds)
    for each, fed in zip(opened, by_batch[0], strict=True):
        check_finite(each.runner.infer(fed.arrays), each.subject.label)
    return by_batch


def _measured(
    opened: Sequence[OpenedSubject],
    feeds: Sequence[Feeds],
    request: BenchRequest,
    system: Mapping[str, Any],
    on_round: Callable[[float], None] | None,
) -> list[Record]:
    calls = {each.subject.key: each.runner.bind(fed.arrays) for each, fed in zip(opened, feeds, strict=True)}
    described = [each.runner.describe() for each in opened]
    for each, runner in zip(opened, described, strict=True):
        if why := without_graph(runner):
            log(f"{each.subject.label}: {why}")
    state, created = machine_state(), datetime.now(UTC).isoformat()
    measured = measure(calls, seed=request.seed, on_round=on_round, **request.limits)
    shared: dict[str, Any] = {
        "suite": request.suite,
        "scenario": request.scenario,
        "system": {**system, "state": state},
        "system_after": machine_state(),
        "conditions": {**request.conditions, "interleaved_with": list(calls)},
        # The program's name alone: its folder says nothing about the measurement.
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "created": created,
        "protocol_version": PROTOCOL_VERSION,
    }
    return [
        Record(**{**shared, **_own_fields(each, fed, runner, measured[each.subject.key], shared["conditions"])})
        for each, fed, runner in zip(opened, feeds, described, strict=True)
    ]


def _own_fields(
    opened: OpenedSubject,
    feeds: Feeds,
    runner: Mapping[str, object],
    measured: Measurement,
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "model": opened.subject.label,
        "source": opened.source,
        "artefact_sha256": opened.artefact_sha256,
        "runner": {**runner, "runner": opened.subject.runner},
        "precision": str(runner["precision"]),
        "batch": feeds.batch,
        "input_shape": feeds.shape,
        "conditions": {**conditions, "input": feeds.source},
        "samples_ns": measured.samples_ns,
        "device_samples_ns": measured.device_samples_ns,
        "warmup": {"runs": measured.warmup_runs, "steady": measured.steady, "cov": measured.warmup_cov},
        "facts": {**opened.facts, **opened.subject.facts, **feeds.facts},
    }


def _may_spin(subjects: Sequence[Subject], threads: int) -> bool:
    """Return whether idle threads of ONNX Runtime may spin: not where they would take the cores from torch's.

    Measured with 2 threads on 2 cores: spinning raised torch's p90 from 0.3 ms to 3-9 ms.
    """
    backends = {subject.runner.partition("-")[0] for subject in subjects}
    if threads == 1 or not {"torch", "ort"} <= backends:
        return True
    log(
        f"torch and ONNX Runtime beside each other on {threads} threads: ONNX Runtime's idle threads do not spin "
        "(recorded), which makes it slower; measure each in a run of its own to see its best"
    )
    return False


def _share(on_round: Callable[[float], None] | None, done: int, batches: int) -> Callable[[float], None] | None:
    """Return a callback that reports the share of all batch sizes together."""
    return None if on_round is None else lambda share: on_round((done + share) / batches)
