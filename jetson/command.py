"""``irepdeploy jetson check``, ``bench``, ``restore`` and ``clean``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irepdeploy.cli.group import CommandGroup
from irepdeploy.cli.options import InputShapeOption, InputsOption, JsonOption, SeedOption, TimeoutOption
from irepdeploy.console import next_step, say

if TYPE_CHECKING:
    from irepdeploy.errors import IrepdeployError
    from irepdeploy.runs.record import Record

    from .boards import Answer
    from .remote_agent import RemoteAgent

__all__ = ["jetson"]

HostsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[USER@]HOST...", help="Boards, named as for ssh.", show_default=False),
]
HostsOption = Annotated[
    Path | None,
    typer.Option(
        "--hosts",
        metavar="FILE",
        help="File with more boards, one HOST [python=PATH] per line; all boards work in parallel.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--ssh-config", metavar="FILE", help="ssh configuration to use instead of ~/.ssh/config."),
]
PythonOption = Annotated[
    str | None,
    typer.Option("--python", metavar="PATH", help="Python on the board, such as ~/venv/bin/python. [python3]"),
]

jetson = typer.Typer(
    cls=CommandGroup,
    help="Build and measure on a board over ssh. It uses the system's ssh client, configuration and keys. The board "
    "needs Python 3.8 and numpy, and TensorRT for engines.",
)


@jetson.command()
def check(
    boards: HostsArgument = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Also try CUDA, engines, DLA, power and trtexec on a small network; this takes minutes."
        ),
    ] = False,
    hosts: HostsOption = None,
    ssh_config: ConfigOption = None,
    python: PythonOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for records.jsonl of the thorough check.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show facts about a board, its state, what is missing there, and the commands that install it.

    Examples: irepdeploy jetson check nvidia@xavier; irepdeploy jetson check nvidia@xavier --thorough --out first
    """
    from irepdeploy.console import print_json, table

    from .state import missing_rows, rows_of, unusable
    from .thorough import check_thoroughly, failure, step_rows

    found: dict[str, Any] = {}

    def ask(agent: RemoteAgent) -> dict[str, Any]:
        facts = agent.ask("check")
        if thorough:
            found[agent.host] = check_thoroughly(agent, facts)
        return facts

    with _records(out, thorough) as keep:
        answers = _ask(boards, hosts, ssh_config, python, ask)
        keep([record for _, records in found.values() for record in records])
    steps = {host: each for host, (each, _) in found.items()}
    if json:
        print_json(
            [
                {
                    "host": answer.host,
                    "error": answer.error and answer.error.line,
                    **(answer.value or {}),
                    **({"steps": [each.to_dict() for each in steps.get(answer.host, [])]} if thorough else {}),
                }
                for answer in answers
            ]
        )
    else:
        for answer in answers:
            if answer.value is not None:
                table(answer.host, ["fact", "value"], rows_of(answer.value))
                if answer.value.get("missing"):
                    table("missing there", ["what", "for", "fix it there with"], missing_rows(answer.value))
            if answer.host in steps:
                table("thorough check", ["step", "status", "s", "finding"], step_rows(steps[answer.host]))
    errors = [answer.error or unusable(answer.host, answer.value or {}) for answer in answers]
    _raise_worst([*errors, *(failure(host, each) for host, each in steps.items())])
    if not json:
        next_step("jetson", "bench", answers[0].host, "MODEL.onnx")


@jetson.command()
def bench(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[USER@]HOST [LABEL=]MODEL.onnx", help="A board, then ONNX files; with --hosts, ONNX files only."
        ),
    ],
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="One or more of fp32,fp16,int8. [the model's]"),
    ] = None,
    runner: Annotated[str, typer.Option("--runner", help="trt, or ort-cpu for ONNX Runtime on the board.")] = "trt",
    dla: Annotated[int | None, typer.Option("--dla", min=0, max=1, help="DLA core to run layers on.")] = None,
    power: Annotated[bool, typer.Option("--power", help="Also measure power, for 10 s per model.")] = False,
    mode: Annotated[
        str | None, typer.Option("--mode", help="Power mode to measure in, such as MAXN; restored afterwards.")
    ] = None,
    clocks: Annotated[
        str | None,
        typer.Option(
            "--clocks",
            help="max locks the clocks at the mode's maximum, as-is leaves them unchanged. [max if permitted]",
        ),
    ] = None,
    via: Annotated[
        str | None,
        typer.Option(
            "--via", help="trtexec: also measure with the board's own trtexec, for a second, independent number."
        ),
    ] = None,
    build_only: Annotated[
        bool, typer.Option("--build-only", help="Build and fetch the engines and their sidecars without measuring.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, max=(1 << 31) - 1, help="Batch size of models with a dynamic batch.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, max=1024, help="Threads of ort-cpu.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="Minimum measuring time per model.")] = 5.0,
    timeout: TimeoutOption = 300.0,
    seed: SeedOption = 0,
    inputs: InputsOption = None,
    input_shape: InputShapeOption = None,
    hosts: HostsOption = None,
    ssh_config: ConfigOption = None,
    python: PythonOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for records.jsonl and fetched engines.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Build engines on a board, compare them with ONNX Runtime here, and measure them there.

    Examples: irepdeploy jetson bench nvidia@xavier build/model.onnx --precision fp32,fp16 --mode MAXN --power;
    irepdeploy jetson bench pi@raspberry build/model.onnx --runner ort-cpu
    """
    from irepdeploy.console import log, print_json, progress, table
    from irepdeploy.verify.input_spec import input_specs

    from .hosts import hosts_and_models
    from .measure import RECORDS, Settings, bench_boards
    from .outcome import COLUMNS, cells

    machines, models = hosts_and_models(words, hosts, python)
    settings = Settings(
        precisions=() if precision is None else tuple(part.strip() for part in precision.split(",")),
        runner=runner,
        dla=dla,
        power=power,
        mode=mode,
        clocks=clocks,
        via=via,
        build_only=build_only,
        batch=batch,
        input_shape=tuple(input_specs(input_shape or ())),
        threads=threads,
        seconds=seconds,
        seed=seed,
        timeout_s=timeout,
    )
    with progress() as display:
        outcomes = bench_boards(machines, models, settings, display=display, inputs=inputs, out=out, config=ssh_config)
    if json:
        written = None if out is None or not any(outcome.records for outcome in outcomes) else str(out / RECORDS)
        print_json({"records": written, "boards": [outcome.to_dict() for outcome in outcomes]})
    else:
        for outcome in outcomes:
            if outcome.rows:
                table(outcome.title, COLUMNS, [cells(row) for row in outcome.rows])
            for note in outcome.notes:
                say(note)
            for path in outcome.engines:
                say(f"wrote {path}")
    if any(outcome.records for outcome in outcomes):
        log("the samples were not saved: add --out DIR" if out is None else f"records: {out / RECORDS}")
    _raise_worst([error for outcome in outcomes for error in outcome.errors])
    if out is not None and not json and any(outcome.records for outcome in outcomes):
        next_step("report", out)


@jetson.command()
def restore(
    boards: HostsArgument = None,
    hosts: HostsOption = None,
    ssh_config: ConfigOption = None,
    python: PythonOption = None,
) -> None:
    """Restore clocks and power mode after a run whose agent or board was killed."""
    from irepdeploy.errors import one_line

    answers = _ask(boards, hosts, ssh_config, python, lambda agent: agent.restore())
    for answer in answers:
        if answer.value is not None:
            done = ", ".join(one_line(str(text)) for text in answer.value.get("restored", []))
            say(f"{answer.host}: {done or 'nothing to restore'}")
    _raise_worst([answer.error for answer in answers])


@jetson.command()
def clean(
    boards: HostsArgument = None,
    hosts: HostsOption = None,
    ssh_config: ConfigOption = None,
    python: PythonOption = None,
) -> None:
    """Remove everything cached on a board: the agent, models, references, timing caches."""
    answers = _ask(boards, hosts, ssh_config, python, lambda agent: agent.ask("clean", {"all": True}))
    for answer in answers:
        if answer.value is not None:
            say(f"{answer.host}: {int(answer.value.get('removed_bytes') or 0) / 1e6:.1f} MB removed")
    _raise_worst([answer.error for answer in answers])


@contextmanager
def _records(out: Path | None, thorough: bool) -> Iterator[Callable[[Sequence[Record]], None]]:
    """Lock the folder, and yield a function that appends records to the file in it."""
    from irepdeploy.errors import InputError
    from irepdeploy.folders import output_folder
    from irepdeploy.runs.record import append

    from .measure import RECORDS

    if out is None:
        yield lambda records: None
        return
    if not thorough:
        raise InputError("nothing is recorded without it", where="--out", hint="add --thorough")
    with output_folder(out) as folder:

        def keep(records: Sequence[Record]) -> None:
            for record in records:
                append(folder / RECORDS, record)

        yield keep


def _ask(
    boards: list[str] | None,
    hosts: Path | None,
    config: Path | None,
    python: str | None,
    work: Callable[[RemoteAgent], dict[str, Any]],
) -> list[Answer[dict[str, Any]]]:
    from irepdeploy.console import progress

    from .agent_archive import build_agent
    from .boards import ask_boards
    from .hosts import read_hosts

    machines = read_hosts(boards or [], hosts, python)
    with progress() as display:
        return ask_boards(machines, work, archive=build_agent(), display=display, config=config)


def _raise_worst(errors: Sequence[IrepdeployError | None]) -> None:
    """Raise the error with the highest exit code, after logging the others."""
    from irepdeploy.console import log

    found = [error for error in errors if error is not None]
    if not found:
        return
    worst = max(found, key=lambda error: error.exit_code)
    for error in found:
        if error is not worst:
            log(f"irepdeploy: error: {error.line}")
    raise worst
