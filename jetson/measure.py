"""Measure on boards: compute references here, build and measure on the board, and write records here."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.sidecar import sidecar_path
from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.files import write_bytes
from irepdeploy.folders import make_folder, output_folder
from irepdeploy.runs.record import append
from irepdeploy.verify.onnx_process import TIMEOUT_S, check_limit

from .agent.bench_request import CLOCKS, RUNNERS
from .agent_archive import build_agent
from .boards import Answer, ask_boards
from .hosts import Host
from .models import Model, Variant, read_models, variants_of
from .outcome import Outcome, outcome_of
from .reference import Reference, reference_of
from .remote_agent import RemoteAgent

__all__ = ["RECORDS", "Settings", "bench_boards", "measure_on"]

RECORDS = "records.jsonl"

_TOLERANCES = {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8"}
_WARMUP_S = (0.5, 5.0)
_POWER_S = 10.0


@dataclass(frozen=True)
class Settings:
    """Settings of a bench: the options of ``irepdeploy jetson bench``, explained in its help.

    Attributes:
        build_timeout_s: Time limit for building an engine on the board, in seconds.
    """

    precisions: tuple[str, ...] = ()
    runner: str = "trt"
    dla: int | None = None
    power: bool = False
    mode: str | None = None
    clocks: str | None = None
    via: str | None = None
    build_only: bool = False
    batch: int | None = None
    input_shape: tuple[TensorSpec, ...] = ()
    threads: int = 1
    seconds: float = 5.0
    seed: int = 0
    timeout_s: float = TIMEOUT_S
    build_timeout_s: float = 3600.0

    def check(self) -> None:
        """Raise InputError if a setting is invalid or contradicts another one."""
        check_limit(self.timeout_s)
        if not math.isfinite(self.seconds):
            raise InputError(f"expected a finite number, got {self.seconds}", where="--seconds", hint="--seconds 5")
        for option, value, known in (
            ("--runner", self.runner, RUNNERS),
            ("--via", self.via, (None, "trtexec")),
            ("--clocks", self.clocks, (None, *CLOCKS)),
        ):
            if value not in known:
                names = ", ".join(name for name in known if name)
                raise InputError(f"unknown value {value!r}", where=option, hint=f"one of {names}")
        if self.runner != "trt":
            for option, given in (
                ("--dla", self.dla is not None),
                ("--via", self.via),
                ("--build-only", self.build_only),
            ):
                if given:
                    raise InputError(f"{option} is for engines", where=f"--runner {self.runner}", hint="omit it")
        if self.build_only and (self.power or self.via):
            raise InputError("measures nothing", where="--build-only", hint="omit --power and --via")


def bench_boards(
    hosts: Sequence[Host],
    models: Sequence[str | os.PathLike[str]],
    settings: Settings,
    *,
    display: ProgressDisplay,
    inputs: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> list[Outcome]:
    """Build, check and measure every model on every board; a board that fails does not stop the others.

    Records are appended to ``records.jsonl`` in `out`; with `build_only`, the engines are written to one folder per
    board in it.

    Raises:
        InputError: Models, precisions or settings do not fit, or `out` cannot be written.
        KeyboardInterrupt: The user stopped the work; every board has restored its settings.
    """
    settings.check()
    if settings.build_only and out is None:
        raise InputError("no folder for the engines", where="--build-only", hint="add --out DIR")
    variants = variants_of(read_models(models), settings.precisions, builds=settings.runner == "trt")
    if settings.dla is not None and any(variant.precision == "fp32" for variant in variants):
        raise InputError("the DLA does not run fp32", where="--dla", hint="--precision fp16 or int8")
    with contextlib.nullcontext() if out is None else output_folder(out) as folder:
        return _benched(hosts, variants, settings, display, inputs, folder, config)


def _benched(
    hosts: Sequence[Host],
    variants: Sequence[Variant],
    settings: Settings,
    display: ProgressDisplay,
    inputs: str | os.PathLike[str] | None,
    folder: Path | None,
    config: str | os.PathLike[str] | None,
) -> list[Outcome]:
    references: dict[str, Reference] = {}
    distinct = {variant.model.sha256: variant.model for variant in variants}
    task = display.task("reference outputs, here", len(distinct))
    for digest, model in distinct.items():
        references[digest] = reference_of(
            model,
            batch=settings.batch,
            given=inputs,
            input_shape=settings.input_shape,
            seed=settings.seed,
            timeout_s=settings.timeout_s,
        )
        task.advance(note=model.label)

    def work(agent: RemoteAgent) -> Outcome:
        return measure_on(agent, variants, references, settings, folder)

    def keep(answer: Answer[Outcome]) -> None:
        outcome = answer.value or Outcome(answer.host)
        outcome.error = answer.error or outcome.error
        outcomes[answer.host] = outcome
        if folder is not None:
            for record in outcome.records:
                append(folder / RECORDS, record)

    outcomes: dict[str, Outcome] = {}
    ask_boards(hosts, work, archive=build_agent(), display=display, config=config, on_answer=keep)
    return [outcomes[host.name] for host in hosts]


def measure_on(
    agent: RemoteAgent,
    variants: Sequence[Variant],
    references: dict[str, Reference],
    settings: Settings,
    folder: Path | None,
) -> Outcome:
    """Build, check and measure the variants on one board; `references` are keyed by the digests of the models."""
    for model in {variant.model.sha256: variant.model for variant in variants}.values():
        reference = references[model.sha256]
        agent.send([model.content, reference.inputs, reference.expected], _copying(agent, model))
    groups = {variant.label: references[variant.model.sha256].groups for variant in variants}
    outcome = outcome_of(agent.host, agent.bench(_request(variants, references, settings)), variants, groups)
    if settings.build_only and outcome.job is not None and folder is not None:
        try:
            _fetch(agent, outcome, variants, settings, folder)
        finally:
            agent.ask("clean", {"job": outcome.job})
    return outcome


def _copying(agent: RemoteAgent, model: Model) -> Callable[[float], None]:
    return lambda share: agent.on_event({"event": "progress", "stage": "copy", "model": model.label, "share": share})


def _request(variants: Sequence[Variant], references: dict[str, Reference], settings: Settings) -> dict[str, Any]:
    return {
        "models": [_entry(variant, references[variant.model.sha256], settings) for variant in variants],
        "runner": settings.runner,
        "via": settings.via,
        "build_only": settings.build_only,
        "threads": settings.threads,
        "seed": settings.seed,
        "min_seconds": settings.seconds,
        "build_timeout_s": settings.build_timeout_s,
        "warmup_min_seconds": min(_WARMUP_S[0], settings.seconds),
        "warmup_max_seconds": min(_WARMUP_S[1], settings.seconds),
        "power": {"seconds": _POWER_S} if settings.power else False,
        "clocks": settings.clocks,
        "mode": int(settings.mode) if settings.mode is not None and settings.mode.isdecimal() else settings.mode,
    }


def _entry(variant: Variant, reference: Reference, settings: Settings) -> dict[str, Any]:
    model = variant.model
    return {
        "label": variant.label,
        "sha256": model.sha256,
        "precision": variant.precision,
        "carried": model.carried,
        "batch": reference.batch,
        "dla": settings.dla,
        "name": model.label,
        "profiles": reference.profiles,
        "limits": reference.limits,
        "gate": {
            "inputs": reference.inputs_sha256,
            "expected": reference.expected_sha256,
            "tolerance": _TOLERANCES[variant.precision],
        },
    }


def _fetch(agent: RemoteAgent, outcome: Outcome, variants: Sequence[Variant], settings: Settings, folder: Path) -> None:
    """Fetch engines and sidecars into the board's folder, under names made from labels."""
    place = make_folder(folder / _file_name(agent.host))
    taken: set[str] = set()
    for variant in variants:
        stem = f"{_file_name(variant.model.label)}.{variant.precision}"
        stem += "" if settings.dla is None else f".dla{settings.dla}"
        # Two labels may result in the same file name.
        while stem in taken:
            stem += "-"
        taken.add(stem)
        engine = str(place / f"{stem}.engine")
        # The sidecar comes last, so that an engine with one is complete.
        for name in sorted(outcome.files.get(variant.label, []), key=len):
            target = sidecar_path(engine) if name.endswith(".json") else engine
            outcome.engines.append(write_bytes(target, agent.fetch(str(outcome.job), name)))


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.@-]+", "_", text).lstrip(".-") or "model"
