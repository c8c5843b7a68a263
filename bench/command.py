"""``irepdeploy bench``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.console import log, print_json, table
from irepdeploy.errors import InputError
from irepdeploy.options import JsonOption, SeedOption

__all__ = ["bench"]

_SECONDS_BETWEEN_LINES = 5.0


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[LABEL=]MODEL]...",
            help="Checkpoints, ONNX files, networks of the registry; the first one is the reference.",
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="Measure one of the paper's tables instead: table1, table5, ...")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", help="Of a suite: smoke (seconds), small (minutes on a CPU; default) or paper."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Of a suite: cpu or cuda; default: cuda where there is one.")
    ] = None,
    runner: Annotated[
        list[str] | None,
        typer.Option("--runner", help="torch (checkpoints, networks), ort-cpu (ONNX); several with commas."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder whose records.jsonl the raw samples are added to.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=1024, help="Threads of every runner. Default: 1; of a suite: torch's own."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="At least so long for each model; default: 5.")
    ] = None,
    seed: SeedOption = 0,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PACKAGE.MODULE:FACTORY", help="Builds the class of a foreign checkpoint."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure models beside each other on this machine: warmed up, interleaved, raw samples kept.

    Examples: irepdeploy bench fused=build/model.onnx vgg.onnx --out results; irepdeploy bench --suite table1
    """
    if suite is not None:
        for option, value in (("--runner", runner), ("--model", model), ("--seconds", seconds)):
            if value is not None:
                raise InputError(f"{option} is not for suites", where=f"--suite {suite}", hint="leave it out")
        _suite(suite, models, scale, device, threads, seed, out, as_json)
        return
    if scale is not None or device is not None:
        raise InputError("--scale and --device are for suites", hint="add --suite NAME, or use --runner")
    if not models:
        raise InputError("nothing to measure", hint="name a model, as fused=build/model.onnx, or --suite table1")
    from .latency import RECORDS, bench_models
    from .table import COLUMNS, cells, rows

    factory = None
    if model is not None:
        from irepdeploy.checkpoint import load_model_factory

        factory = load_model_factory(model)
    runners = [name.strip() for given in runner or () for name in given.split(",") if name.strip()] or None
    records = bench_models(
        models,
        runners=runners,
        out=out,
        seed=seed,
        threads=threads or 1,
        min_seconds=5.0 if seconds is None else seconds,
        factory=factory,
        on_round=_lines(),
    )
    shown = rows(records)
    written = None if out is None else str(out / RECORDS)
    if as_json:
        print_json(
            {
                "records": written,
                "protocol_version": records[0].protocol_version,
                "input_shape": records[0].input_shape,
                "threads": threads or 1,
                "rows": [row.to_json() for row in shown],
            }
        )
    else:
        shape = "x".join(map(str, records[0].input_shape))
        table(f"Latency, input {shape}, threads {threads or 1}", COLUMNS, [cells(row) for row in shown])
    log("the samples were not kept: add --out DIR" if written is None else f"records: {written}")


def _suite(
    name: str,
    models: list[str] | None,
    scale: str | None,
    device: str | None,
    threads: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    import torch

    from irepdeploy.console import progress
    from irepdeploy.suite import SuiteRequest

    from .suites import run_suite

    if models:
        raise InputError("a suite brings its own models", where=f"--suite {name}", hint="leave the models out")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    request = SuiteRequest(scale=scale or "small", device=device, threads=threads, seed=seed, out=out)
    with progress() as display:
        report = run_suite(name, request, display)
    if as_json:
        print_json({"title": report.title, "notes": list(report.notes), "figures": report.figures})
    else:
        table(report.title, report.columns, report.rows)
        for note in report.notes:
            print(note)


def _lines() -> Callable[[float], None]:
    """Progress in plain lines: a live bar refreshes itself from a thread, which would disturb what is measured."""
    begin = last = 0.0

    def on_round(share: float) -> None:
        nonlocal begin, last
        now = time.monotonic()
        if not begin:
            # The models were loaded and warmed up before.
            begin = last = now
        elif now - last >= _SECONDS_BETWEEN_LINES and share < 1:
            last = now
            log(f"measuring: {share:.0%}, {(now - begin) / share * (1 - share):.0f} s left")

    return on_round
