"""Latency of models beside each other: one run, one input, interleaved."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.board.feeds import check_finite
from irepdeploy.board.protocol import PROTOCOL_VERSION, Measurement, measure
from irepdeploy.board.system import machine_state, system_block
from irepdeploy.console import log
from irepdeploy.errors import InputError
from irepdeploy.files import output_folder
from irepdeploy.runs.record import Record, append

from .feeds import Feeds, check_one_shape, check_shape_names, feeds_of
from .opened import OpenedSubject, Opener
from .subject import Subject, find_subjects

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OFFLINE", "OFFLINE_BATCHES", "RECORDS", "SINGLE_STREAM", "bench_models"]

RECORDS = "records.jsonl"
# Of MLPerf: one query after the other, as on a camera; and all of the images at once, in batches.
SINGLE_STREAM, OFFLINE = "single-stream", "offline"
OFFLINE_BATCHES = (1, 2, 4, 8, 16, 32, 64)

_MAX_SAMPLES = 10_000
_WARMUP_S = (0.5, 5.0)


def bench_models(
    models: Sequence[str | os.PathLike[str] | Subject],
    *,
    runners: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    suite: str = "models",
    scenario: str = SINGLE_STREAM,
    batches: Sequence[int] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    tf32: bool = False,
    transfers: str = "excluded",
    min_seconds: float = 5.0,
    min_samples: int = 64,
    factory: Callable[[], nn.Module] | None = None,
    on_open: Callable[[str], None] | None = None,
    on_round: Callable[[float], None] | None = None,
) -> list[Record]:
    """Measure all models interleaved, on one seeded random input, and return their records, in the order given.

    Args:
        models: checkpoints, ONNX files, engines and networks of the registry, each as ``path``, ``name`` or
            ``label=...``; or Subjects, which name their runner themselves.
        runners: names from `RUNNERS`; by default each model is on the one natural to it. For ONNX Runtime a checkpoint
            or network is written as ONNX in memory, as it stands.
        out: folder whose ``records.jsonl`` the records are appended to; nothing is written without it.
        suite: what the records are part of.
        scenario: SINGLE_STREAM, or OFFLINE: a record for every batch.
        batches: default: 1, or each model's own where that is fixed; OFFLINE: `OFFLINE_BATCHES`.
        shapes: of inputs with free dimensions, by their names, the batch first.
        facts: by label, what is known of a model (`Record.facts`); a Subject's own come first.
        threads: of every runner.
        device: of torch and torch-compile; the other runners have one of their own.
        tf32: let float32 round to TF32 on a GPU.
        transfers: "excluded" or "included": whether a call copies inputs to the GPU and outputs back.
        min_seconds, min_samples: at least so much for each model and batch, seconds on average.
        factory: builds the class of checkpoints that are not of the registry.
        on_open: told the key of each subject before it is opened; writing ONNX and compiling take seconds.
        on_round: told the share of the work that is done (0 to 1), between measurements.

    Raises:
        InputError: no such model, damaged, of another input shape than the others, with free dimensions or another
            batch, one whose outputs are not finite, or no such scenario.
        MissingError: something that a runner needs is not there.
        OutputError: `out` cannot be written.
    """
    if not math.isfinite(min_seconds) or min_seconds < 0:
        raise InputError(f"{min_seconds} s of measuring", where="--seconds", hint="0 or more, and an end")
    subjects = find_subjects(models, runners)
    wanted = _batches(scenario, batches)
    folder = None if out is None else output_folder(out)
    opener = Opener(
        seed=seed,
        threads=threads,
        spinning=_may_spin(subjects, threads),
        device=device,
        tf32=tf32,
        transfers=transfers,
        batch=(wanted[0] or 1) if len(wanted) == 1 and not shapes else None,
        factory=factory,
    )
    # No longer than the measurement itself, where that is short.
    limits: dict[str, Any] = {
        "min_samples": min_samples,
        "min_seconds": min_seconds,
        "max_samples": _MAX_SAMPLES,
        "warmup_min_seconds": min(_WARMUP_S[0], min_seconds),
        "warmup_max_seconds": min(_WARMUP_S[1], min_seconds),
    }
    conditions = {
        "seed": seed,
        "order": "shuffled in every round",
        "interleaved_with": [subject.key for subject in subjects],
        "input": "standard normal",
        "tf32": "on" if tf32 else "off",
        "transfers": transfers,
        **limits,
    }
    records: dict[tuple[str, int], Record] = {}
    with contextlib.ExitStack() as stack:
        opened = [_open(opener, subject, stack, on_open) for subject in subjects]
        check_shape_names(opened, shapes or {})
        fed_by_batch = [[feeds_of(each, seed, batch=batch, shapes=shapes or {}) for each in opened] for batch in wanted]
        for feeds in fed_by_batch:
            check_one_shape(opened, feeds)
        for each, fed in zip(opened, fed_by_batch[0], strict=True):
            check_finite(each.runner.infer(fed), each.subject.label)
        # After the runners are up, so that the thread counts are those of the measurement.
        system = system_block()
        for index, feeds in enumerate(fed_by_batch):
            calls = {each.subject.key: each.runner.bind(fed) for each, fed in zip(opened, feeds, strict=True)}
            described = [each.runner.describe() for each in opened]
            before, created = {**system, "state": machine_state()}, datetime.now(UTC).isoformat()
            measured = measure(calls, seed=seed, on_round=_share(on_round, index, len(wanted)), **limits)
            after = machine_state()
            for each, fed, runner in zip(opened, feeds, described, strict=True):
                record = _record(each, fed, runner, measured[each.subject.key])
                label_facts = (facts or {}).get(each.subject.label, {})
                records[each.subject.key, index] = Record(
                    **record,
                    suite=suite,
                    scenario=scenario,
                    facts={**each.facts, **label_facts, **each.subject.facts},
                    system=before,
                    system_after=after,
                    conditions=conditions,
                    # The program's name alone: where it lies says nothing about the measurement.
                    argv=[Path(sys.argv[0]).name, *sys.argv[1:]],
                    created=created,
                )
    ordered = [records[subject.key, index] for subject in subjects for index in range(len(wanted))]
    if folder is not None:
        for found in ordered:
            append(folder / RECORDS, found)
    return ordered


def _batches(scenario: str, batches: Sequence[int]) -> list[int | None]:
    if scenario not in (SINGLE_STREAM, OFFLINE):
        raise InputError(f"no scenario {scenario!r}", where="--scenario", hint=f"{SINGLE_STREAM} or {OFFLINE}")
    if any(isinstance(batch, bool) or batch < 1 for batch in batches) or len(set(batches)) != len(batches):
        raise InputError(f"batches {list(batches)}", where="--batches", hint="whole numbers from 1 up, each once")
    return list(batches or (OFFLINE_BATCHES if scenario == OFFLINE else (None,)))


def _open(
    opener: Opener, subject: Subject, stack: contextlib.ExitStack, on_open: Callable[[str], None] | None
) -> OpenedSubject:
    if on_open is not None:
        on_open(subject.key)
    opened = opener.open(subject)
    stack.enter_context(opened.runner)
    return opened


def _may_spin(subjects: Sequence[Subject], threads: int) -> bool:
    """Whether idle threads of ONNX Runtime may spin: not where they would take the cores from torch's.

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
    """Of all batches together."""
    return None if on_round is None else lambda share: on_round((done + share) / batches)


def _record(opened: OpenedSubject, feeds: Feeds, runner: Mapping[str, object], measured: Measurement) -> dict[str, Any]:
    """What is one subject's own."""
    shape = next(iter(feeds.values())).shape
    return {
        "model": opened.subject.label,
        "source": opened.source,
        "artefact_sha256": opened.artefact_sha256,
        "runner": {**runner, "runner": opened.subject.runner},
        "precision": str(runner["precision"]),
        "batch": shape[0],
        "input_shape": list(shape),
        "samples_ns": measured.samples_ns,
        "device_samples_ns": measured.device_samples_ns,
        "warmup": {"runs": measured.warmup_runs, "steady": measured.steady, "cov": measured.warmup_cov},
        "protocol_version": PROTOCOL_VERSION,
    }
