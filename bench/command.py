"""``irepdeploy bench``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.console import log, print_json, table
from irepdeploy.options import JsonOption, SeedOption

__all__ = ["bench"]

_SECONDS_BETWEEN_LINES = 5.0


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]MODEL...",
            help="Checkpoints, ONNX files, networks of the registry; the first one is the reference.",
        ),
    ],
    runner: Annotated[
        list[str] | None,
        typer.Option("--runner", help="torch (checkpoints, networks), ort-cpu (ONNX); several with commas."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder whose records.jsonl the raw samples are added to.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of every runner.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="At least so long for each model.")] = 5.0,
    seed: SeedOption = 0,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PACKAGE.MODULE:FACTORY", help="Builds the class of a foreign checkpoint."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure models beside each other on this machine: warmed up, interleaved, raw samples kept.

    Example: irepdeploy bench fused=build/model.onnx vgg.onnx --out results
    """
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
        threads=threads,
        min_seconds=seconds,
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
                "threads": threads,
                "rows": [row.to_json() for row in shown],
            }
        )
    else:
        shape = "x".join(map(str, records[0].input_shape))
        table(f"Latency, input {shape}, threads {threads}", COLUMNS, [cells(row) for row in shown])
    log("the samples were not kept: add --out DIR" if written is None else f"records: {written}")


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
