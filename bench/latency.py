"""Latency of several models in one run, on one input, with interleaved measurements."""

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

    On ONNX Runtime, a checkpoint or network is converted to ONNX in memory, with its branches.

    Args:
        subjects: Models with their runners.
        request: Settings of the measurement.
        on_round: Function called with the share of the work done, from 0 to 1.

    Returns:
        One record per subject and batch size, in the order of `subjects`.

    Raises:
        InputError: A model is damaged, takes another input shape than the others or cannot take the batch size, has
            dynamic dimensions that the request does not give, or returns values that are not finite.
        MissingError: Something that a runner needs is not installed.
        RunError: An ONNX file takes longer than ``request.timeout_s`` to load and run once, or too much memory.
        OutputError: ``request.out`` cannot be written.
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
        # Read once the runners are active, so that the thread counts are those of the measurement.
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
    """Run an ONNX file once in a process that can be killed: a measurement in this process cannot be interrupted."""
    request = opener.request
    # Includes the largest batch, for its memory. For models that need a GPU, only termination is checked.
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
                    # `_feeds` raises this after checking that every --input-shape names an input.
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
        # Only the program's name: its folder is irrelevant to the measurement.
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
    """Return whether idle threads of ONNX Runtime may spin, i.e. unless they would take cores from torch's threads.

    Measured with 2 threads on 2 cores: spinning raised torch's p90 from 0.3 ms to 3-9 ms.
    """
    backends = {subject.runner.partition("-")[0] for subject in subjects}
    if threads == 1 or not {"torch", "ort"} <= backends:
        return True
    log(
        f"torch and ONNX Runtime in one run on {threads} threads: ONNX Runtime's idle threads do not spin (recorded), "
        "which makes it slower; measure each in a separate run to see its best"
    )
    return False


def _share(on_round: Callable[[float], None] | None, done: int, batches: int) -> Callable[[float], None] | None:
    """Return a callback that reports the share done over all batch sizes."""
    return None if on_round is None else lambda share: on_round((done + share) / batches)
