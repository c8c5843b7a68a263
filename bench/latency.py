"""Latency of models beside each other: one run, one input, interleaved."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.console import log
from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import output_folder
from irepdeploy.record import Record, append
from irepdeploy.runtime.protocol import PROTOCOL_VERSION, Measurement, measure
from irepdeploy.runtime.runner import TensorSpec, shape_text
from irepdeploy.system import system_block

from .subject import OpenedSubject, Subject, find_subjects, open_subject

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RECORDS", "bench_models"]

RECORDS = "records.jsonl"

_MAX_SAMPLES = 10_000
_WARMUP_S = (0.5, 5.0)

Feeds = dict[str, np.ndarray]


def bench_models(
    models: Sequence[str | os.PathLike[str]],
    *,
    runners: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    threads: int = 1,
    min_seconds: float = 5.0,
    min_samples: int = 64,
    factory: Callable[[], nn.Module] | None = None,
    on_round: Callable[[float], None] | None = None,
) -> list[Record]:
    """Measure all models interleaved, on one seeded random input, and return a record of each, in the order given.

    Args:
        models: checkpoints, ONNX files and networks of the registry, each as ``path``, ``name`` or ``label=...``.
        runners: names from `RUNNERS`; by default each model is on the one natural to it.
        out: folder whose ``records.jsonl`` the records are appended to; nothing is written without it.
        threads: of every runner.
        min_seconds, min_samples: at least so much for each model, seconds on average.
        factory: builds the class of checkpoints that are not of the registry.
        on_round: told the share of the work that is done (0 to 1), between measurements.

    Raises:
        InputError: no such model, damaged, of another input shape than the others, with free dimensions, or one whose
            outputs are not finite.
        MissingError: something that a runner needs is not there.
        OutputError: `out` cannot be written.
    """
    subjects = find_subjects(models, runners)
    folder = None if out is None else output_folder(out)
    with contextlib.ExitStack() as stack:
        spinning = _may_spin(subjects, threads)
        opened = [
            open_subject(subject, seed=seed, threads=threads, spinning=spinning, factory=factory)
            for subject in subjects
        ]
        for each in opened:
            stack.enter_context(each.runner)
        feeds = [_feeds(each, seed) for each in opened]
        _check_one_shape(opened, feeds)
        for each, fed in zip(opened, feeds, strict=True):
            _check_finite(each, fed)
        calls = {each.subject.key: each.runner.bind(fed) for each, fed in zip(opened, feeds, strict=True)}
        described = [each.runner.describe() for each in opened]
        # After the runners are up, so that the thread counts are those of the measurement.
        system = system_block()
        created = datetime.now(UTC).isoformat()
        # No longer than the measurement itself, where that is short.
        limits: dict[str, Any] = {
            "min_samples": min_samples,
            "min_seconds": min_seconds,
            "max_samples": _MAX_SAMPLES,
            "warmup_min_seconds": min(_WARMUP_S[0], min_seconds),
            "warmup_max_seconds": min(_WARMUP_S[1], min_seconds),
        }
        measured = measure(calls, seed=seed, on_round=on_round, **limits)
    conditions = {
        "seed": seed,
        "order": "shuffled in every round",
        "interleaved_with": list(calls),
        "input": "standard normal",
        **limits,
    }
    records = [
        _record(each, fed, runner, measured[each.subject.key], system, conditions, created)
        for each, fed, runner in zip(opened, feeds, described, strict=True)
    ]
    if folder is not None:
        for record in records:
            append(folder / RECORDS, record)
    return records


def _may_spin(subjects: Sequence[Subject], threads: int) -> bool:
    """Whether idle threads of ONNX Runtime may spin: not where they would take the cores from torch's.

    Measured with 2 threads on 2 cores: spinning raised torch's p90 from 0.3 ms to 3-9 ms.
    """
    backends = {subject.runner.partition("-")[0] for subject in subjects}
    if threads == 1 or len(backends) == 1:
        return True
    log(
        f"torch and ONNX Runtime beside each other on {threads} threads: ONNX Runtime's idle threads do not spin "
        "(recorded), which makes it slower; measure each in a run of its own to see its best"
    )
    return False


def _record(
    opened: OpenedSubject,
    feeds: Feeds,
    runner: dict[str, object],
    measured: Measurement,
    system: dict[str, object],
    conditions: dict[str, object],
    created: str,
) -> Record:
    shape = next(iter(feeds.values())).shape
    return Record(
        suite="models",
        scenario="single-stream",
        model=opened.subject.label,
        source=opened.source,
        artefact_sha256=opened.artefact_sha256,
        runner={**runner, "runner": opened.subject.runner},
        precision=str(runner["precision"]),
        batch=shape[0],
        input_shape=list(shape),
        samples_ns=measured.samples_ns,
        warmup={"runs": measured.warmup_runs, "steady": measured.steady, "cov": measured.warmup_cov},
        protocol_version=PROTOCOL_VERSION,
        system=system,
        conditions=conditions,
        # The program's name alone: where it lies says nothing about the measurement.
        argv=[Path(sys.argv[0]).name, *sys.argv[1:]],
        created=created,
    )


def _feeds(opened: OpenedSubject, seed: int) -> Feeds:
    """Seeded standard normal values, the same for all models that take the same shapes in the same order."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(_fixed_shape(spec, opened)).astype(spec.dtype) for spec in opened.runner.inputs
    }


def _fixed_shape(spec: TensorSpec, opened: OpenedSubject) -> tuple[int, ...]:
    where = opened.subject.target
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        raise ModelError(f"input {spec.name!r} is {spec.dtype}; only floating-point inputs can be made up", where=where)
    batch, *rest = spec.shape or (None,)
    if not spec.shape or None in rest:
        raise ModelError(
            f"input {spec.name!r} has free dimensions: {shape_text(spec.shape)}",
            where=where,
            hint="fix them: python -m onnxruntime.tools.make_dynamic_shape_fixed "
            f"--input_name {spec.name} --input_shape 1,3,32,32 IN.onnx OUT.onnx",
        )
    return (1 if batch is None else batch, *(size for size in rest if size is not None))


def _check_one_shape(opened: Sequence[OpenedSubject], feeds: Sequence[Feeds]) -> None:
    shapes = [" and ".join(shape_text(array.shape) for array in fed.values()) for fed in feeds]
    for each, shape in zip(opened, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"takes {shape}, but {opened[0].subject.label} takes {shapes[0]}",
                where=each.subject.label,
                hint="latencies on different inputs cannot be compared: measure them in two runs",
            )


def _check_finite(opened: OpenedSubject, feeds: Feeds) -> None:
    for name, values in opened.runner.infer(feeds).items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "infinity"
            raise ModelError(
                f"returns {kind} (output {name!r})",
                where=opened.subject.label,
                hint="the latency of a broken model means nothing: mend its weights first",
            )
