"""``irepdeploy reproduce``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irepdeploy.cli.options import JsonOption
from irepdeploy.console import say

if TYPE_CHECKING:
    from irepdeploy.runs.reproduction import ReproducedCell

    from .cells import Cell
    from .protocol import Network, Protocol

__all__ = ["reproduce"]


def reproduce(
    data: Annotated[str, typer.Argument(metavar="DATA", help="fashion-mnist, cifar10 or imagenet.")],
    question: Annotated[
        str | None,
        typer.Option("--table", help="2, 5, search, axes, helps, step, time or 1. [all of them]", show_default=False),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="One network of the protocol. [all of them]", show_default=False)
    ] = None,
    job: Annotated[
        str,
        typer.Option(
            metavar="K/N", help="Do only the K-th of N shares, in its own folder below --out, so that cores can share."
        ),
    ] = "1/1",
    hours: Annotated[
        float | None,
        typer.Option(min=0, help="Stop at the end of the epoch in which this time is reached; run again to continue."),
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Train with merged steps, which is a separate protocol.")
    ] = False,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data. [as in the recipe]", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", show_default=False)] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Check that everything runs, on random data; the figures are meaningless.")
    ] = False,
    only_list: Annotated[
        bool, typer.Option("--list", help="Show what is done and what is missing, and run nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of jobs and records. [runs/reproduce-DATA]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Answer the paper's questions on a data set with the protocol of docs/does-it-pay.md.

    Continues where it was stopped, and shows tables of the records so far. Examples:
    irepdeploy reproduce fashion-mnist --list;
    irepdeploy reproduce fashion-mnist --table 2 --network compact6 --job 1/2 --hours 2 --out runs/pays
    """
    from irepdeploy.console import log, print_json, progress, table
    from irepdeploy.errors import counted
    from irepdeploy.files import write_bytes, write_json

    from ..execution.device import ranks_of
    from ..execution.run_folder import own_folder
    from ..jobs import Job
    from .cells import cells_of, recipe_of_cell
    from .protocol import protocol_of
    from .run import measured_in, records_in, run_cells
    from .table import markdown_of
    from .tables import tables_of

    protocol = protocol_of(data)
    # In this order, since the smoke scale replaces overrides.
    protocol = protocol.smoke if smoke else protocol
    protocol = protocol.merged if merged else protocol
    networks = protocol.networks if network is None else (protocol.network(network),)
    questions = protocol.questions if question is None else (question,)
    cells = cells_of(protocol, questions, networks)
    mine = Job.of(job)
    share = mine.share(cells)
    place = Path("runs") / f"reproduce-{data}" if out is None else out
    done = {*records_in(place), *measured_in(place)}
    if only_list:
        _show_list(protocol, share, done, merged=merged, json=json)
        return
    # Fail now rather than after hours of work.
    import matplotlib  # noqa: F401

    extras = [] if root is None else [f"data.root={root}"]
    extras += [] if device is None else [f"device={device}"]
    log(_said(share, done, merged=merged))
    with ranks_of(recipe_of_cell(share[0], None, extras)) as ranks:
        with (
            own_folder(place / f"job-{mine.number}-of-{mine.count}", ranks) as folder,
            progress(silent=not ranks.first) as display,
        ):
            task = display.task(f"reproduce {protocol.name}", len(share))
            outcome = run_cells(share, place, folder, ranks=ranks, extras=extras, hours=hours, advance=task.advance)
        if not ranks.first:
            return
    records = records_in(place)
    found = tables_of(protocol, records, questions, networks, measured_in(place))
    pictures = _draw(protocol, records, questions, networks, place)
    write_json(place / "tables.json", [each.to_dict() for each in found])
    write_bytes(place / "tables.md", f"{markdown_of(found)}\n".encode())
    if json:
        print_json([each.to_dict() for each in found])
        return
    for each in found:
        table(each.title, each.columns, each.rows)
        for note in each.notes:
            say(note)
    say("wrote " + ", ".join(map(str, (place / "tables.json", place / "tables.md", *pictures))))
    if outcome.stopped:
        say("the time is up; run the same command again to continue")
    if outcome.waiting:
        cells_left = counted(len(outcome.waiting), "cell")
        say(f"{cells_left} left, which need the trials of other jobs; run again once their records are in {place}")


def _said(share: Sequence[Cell], done: Collection[str], *, merged: bool) -> str:
    from .hours import total_hours

    left = [cell for cell in share if cell.key not in done]
    hours = total_hours(left, merged=merged)
    time = (
        "for an unknown time: no step of them was measured" if hours is None else f"about {hours:.1f} hours on a core"
    )
    return f"{len(share)} cells, {len(share) - len(left)} done; {len(left)} to make, {time}"


def _show_list(protocol: Protocol, share: Sequence[Cell], done: Collection[str], *, merged: bool, json: bool) -> None:
    from irepdeploy.console import print_json, table

    from .hours import total_hours

    groups: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in share:
        groups.setdefault((cell.network.name, cell.condition.label, cell.arm.name, cell.stage), []).append(cell)
    rows = []
    for group, cells in groups.items():
        left = [cell for cell in cells if cell.key not in done]
        rows.append((*group, len(cells), len(cells) - len(left), total_hours(left, merged=merged)))
    columns = ("network", "condition", "arm", "stage", "cells", "done", "hours_left")
    if json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    shown = [[*row[:-1], "-" if row[-1] is None else f"{row[-1]:.2f}"] for row in rows]
    table(f"Protocol {protocol.name}, version {protocol.version}", columns, shown)
    say(_said(share, done, merged=merged))


def _draw(
    protocol: Protocol,
    done: Mapping[str, ReproducedCell],
    questions: Sequence[str],
    networks: Sequence[Network],
    out: Path,
) -> list[Path]:
    from irepdeploy.plots.comparison import draw_presets
    from irepdeploy.plots.figure import save_figure

    from .tables import comparison_of

    pictures = []
    for network in networks:
        for question in questions:
            for place, condition in enumerate(protocol.conditions(question)):
                found = comparison_of(protocol, done, question, network, condition)
                if found is not None:
                    name = f"{network.name}-{question}{place or ''}.png"
                    pictures.append(save_figure(draw_presets(found), out / name))
    return pictures
