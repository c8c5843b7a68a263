"""The `bench` command."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irepdeploy.cli.completion import names
from irepdeploy.cli.options import InputsOption, JsonOption, ModelOption, SeedOption, TimeoutOption
from irepdeploy.console import log, next_step, print_json, say, table
from irepdeploy.errors import InputError

if TYPE_CHECKING:
    from irepdeploy.runs.record import Record
    from irepdeploy.runs.suite import SuiteRequest

    from .against import Guard
    from .request import BenchRequest
    from .subject import Subject

__all__ = ["bench"]

_SECONDS_BETWEEN_LINES = 5.0
_TIMEOUT_S = 300.0


def _suites() -> list[str]:
    from importlib.metadata import entry_points

    return sorted(entry_points(group="irepdeploy.suites").names)


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[LABEL=]MODEL]...",
            help="Checkpoints, ONNX files, engines, or other sources of export; the first one is the reference. "
            "With --suite, they are measured along with those of the suite.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            autocompletion=names(_suites),
            help="Measure one of the paper's tables: table1 to table5, fig1; or fused-vs-branches,"
            " supernet-step, training-step, training-cost.",
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", help="For a suite: smoke (seconds), small (minutes on a CPU; default) or paper."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device of torch: cpu or cuda. Default: cpu; for a suite: cuda if available."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="For a suite: name of a row to measure; can be repeated.")
    ] = None,
    runner: Annotated[
        list[str] | None,
        typer.Option(
            "--runner",
            help="torch, torch-compile, torch-graph, ort-cpu, ort-cuda, ort-trt, ort-trt-rtx, trt;"
            " comma-separated. Default: the natural runner of each model.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to which raw samples are written (appended to records.jsonl)."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, help="Number of threads of every runner. Default: 1."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=0.0, help="Minimum seconds per model. Default: 5; for a suite: by its scale."),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", help="single-stream (batch 1; default) or offline (images/s by batch size)."),
    ] = None,
    batches: Annotated[
        str | None, typer.Option("--batches", metavar="1,8,64", help="Batch sizes. Default for offline: 1,2,4 ... 64.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, max=10_000, help="Minimum number of samples per model. Default: 64."),
    ] = None,
    inputs: InputsOption = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input-shape",
            "--shape",
            metavar="[NAME:]1x3x224x224[:DTYPE]",
            help="Shape of an input, with numbers for dynamic sizes; repeat it for each input. [as declared]",
        ),
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32/--no-tf32", help="Whether the GPU may round float32 to TF32.")] = False,
    transfers: Annotated[
        str,
        typer.Option("--transfers", help="Whether times include copies to and from the GPU: excluded or included."),
    ] = "excluded",
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="RECORDS",
            help="Earlier records to compare with; the exit code is 1 if a model became slower.",
        ),
    ] = None,
    max_slower: Annotated[
        str | None,
        typer.Option("--max-slower", metavar="5%", help="Allowed slowdown relative to --against. Default: 5%."),
    ] = None,
    other_machine: Annotated[
        bool, typer.Option("--other-machine", help="Compare with --against even if measured on another machine.")
    ] = False,
    timeout: TimeoutOption = _TIMEOUT_S,
    seed: SeedOption = 0,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of models side by side on this machine.

    The models are warmed up and measured in turns, and all raw samples are kept.

    Examples: irepdeploy bench fused=build/model.onnx vgg.onnx --out results; irepdeploy bench --suite table2;
    irepdeploy bench build/model.onnx --against results/records.jsonl --max-slower 5%
    """
    runners = [name.strip() for given in runner or () for name in given.split(",") if name.strip()]
    if suite is not None:
        refused = {
            "--model": model,
            "--scenario": scenario,
            "--batches": batches,
            "--input-shape": input_shape,
            "--inputs": inputs,
            "--samples": samples,
            "--tf32": tf32 or None,
            "--against": against,
            "--transfers": None if transfers == "excluded" else transfers,
            "--max-slower": max_slower,
            "--other-machine": other_machine or None,
            "--timeout": None if timeout == _TIMEOUT_S else timeout,
        }
        for option, value in refused.items():
            if value is not None:
                raise InputError(f"{option} is not for suites", where=f"--suite {suite}", hint="omit it")
        from irepdeploy.runs.suite import SuiteRequest

        suite_request = SuiteRequest(
            scale=scale or "small",
            device=device or _best_device(),
            threads=threads,
            seed=seed,
            out=out,
            only=only or (),
            models=models or (),
            runners=runners,
            seconds=seconds,
        )
        _bench_suite(suite, suite_request, as_json)
        return
    if scale is not None or only is not None:
        raise InputError("--scale and --only are for suites", hint="add --suite NAME")
    if not models:
        raise InputError("nothing to measure", hint="name a model, such as fused=build/model.onnx, or --suite table2")
    for option, given_alone in {"--max-slower": max_slower is not None, "--other-machine": other_machine}.items():
        # A guard without a record would always pass.
        if given_alone and against is None:
            raise InputError("needs an earlier record", where=option, hint="add --against RECORDS")
    from irepdeploy.verify.input_spec import input_specs

    from .against import Guard, parse_max_slower
    from .request import BenchRequest
    from .settings import batch_sizes
    from .subject import CHOOSES_DEVICE, find_subjects

    # Read before anything is measured, so that a wrong path is reported at once.
    limit = parse_max_slower(max_slower or "5%")
    guard = None if against is None else Guard.read(against, limit, other_machine)
    factory = None
    if model is not None:
        from irepdeploy.network.factory import load_model_factory

        factory = load_model_factory(model)
    subjects = find_subjects(models, runners)
    if device not in (None, "cpu") and not any(subject.runner in CHOOSES_DEVICE for subject in subjects):
        raise InputError(
            "none of these runners has a choice of device",
            where=f"--device {device}",
            hint="an ONNX file is on the GPU with --runner ort-cuda or ort-trt",
        )
    request = BenchRequest(
        scenario=scenario or "single-stream",
        batches=batch_sizes(batches),
        shapes=input_specs(input_shape or ()),
        inputs=inputs,
        seed=seed,
        threads=threads or 1,
        device=device or "cpu",
        tf32=tf32,
        transfers=transfers,
        min_seconds=5.0 if seconds is None else seconds,
        min_samples=samples or BenchRequest.min_samples,
        timeout_s=timeout,
        factory=factory,
        out=out,
    )
    _bench_subjects(subjects, request, guard, as_json)


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _bench_suite(name: str, request: SuiteRequest, as_json: bool) -> None:
    from irepdeploy.console import progress

    from .run_suite import run_suite

    with progress() as display:
        report = run_suite(name, request, display)
    if as_json:
        print_json({"title": report.title, "notes": list(report.notes), "figures": report.figures})
        return
    table(report.title, report.columns, report.rows)
    for note in report.notes:
        say(note)


def _bench_subjects(subjects: Sequence[Subject], request: BenchRequest, guard: Guard | None, as_json: bool) -> None:
    from .against import require
    from .latency import RECORDS, bench_models

    records = bench_models(subjects, request, _lines())
    written = None if request.out is None else str(Path(request.out) / RECORDS)
    verdicts = [] if guard is None else guard.check(records)
    if as_json:
        _print_json(records, written, request.threads, [verdict.to_json() for verdict in verdicts])
    else:
        _print_table(records, request.threads)
        for verdict in verdicts:
            say(verdict.line)
    log("the samples were not saved: add --out DIR" if written is None else f"records: {written}")
    require(verdicts)
    if written is not None and not as_json:
        next_step("report", request.out)


def _print_table(records: Sequence[Record], threads: int) -> None:
    from .table import BATCH_COLUMNS, COLUMNS, batch_cells, cells, optimum, rows

    if records[0].scenario == "offline":
        title = f"Throughput by batch size, input {_inputs(records[0], 1)}, threads {threads}"
        table(title, BATCH_COLUMNS, [batch_cells(each) for each in optimum(records)])
        return
    title = f"Latency, input {_inputs(records[0])}, threads {threads}"
    table(title, COLUMNS, [cells(row) for row in rows(records)])


def _print_json(records: Sequence[Record], written: str | None, threads: int, verdicts: list[object]) -> None:
    from .table import rows

    print_json(
        {
            "records": written,
            "protocol_version": records[0].protocol_version,
            "input_shape": records[0].input_shape,
            "threads": threads,
            "rows": [row.to_json() for row in rows(records)],
            "against": verdicts,
        }
    )


def _inputs(record: Record, start: int = 0) -> str:
    """Return the shapes of all inputs, without the sizes before index `start`."""
    named = record.facts.get("input_shapes")
    if not named:
        return _shape(record.input_shape[start:])
    # With several inputs the batch may be anywhere, so the shapes of the first row are shown whole.
    return ", ".join(f"{name} {_shape(sizes) or 'a scalar'}" for name, sizes in named.items())


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _lines() -> Callable[[float], None]:
    """Return a callback that logs plain lines; the refresh thread of a live bar would disturb the measurement."""
    begin = last = 0.0

    def on_round(share: float) -> None:
        nonlocal begin, last
        now = time.monotonic()
        if not begin:
            # By now the models have been loaded and warmed up.
            begin = last = now
        elif now - last >= _SECONDS_BETWEEN_LINES and share < 1:
            last = now
            log(f"measuring: {share:.0%}, {(now - begin) / share * (1 - share):.0f} s left")

    return on_round
