"""``irepdeploy plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["plot"]


def plot(
    kind: Annotated[
        Literal["arch", "search"], typer.Argument(help="arch: an Architecture; search: how a search went.")
    ],
    source: Annotated[Path, typer.Argument(help="arch: Architecture file or search folder. search: search folder.")],
    against: Annotated[Path | None, typer.Option(help="Another search folder, drawn into the same picture.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture: .png or .svg.")] = Path("plot.png"),
) -> None:
    """Draw what a search found. Example: irepdeploy plot arch runs/search --out arch.png"""
    from irepdeploy.arch import Architecture
    from irepdeploy.plots.architecture import draw_architecture
    from irepdeploy.plots.figure import save_figure
    from irepdeploy.plots.search_run import draw_fitness, read_search

    if kind == "arch":
        if source.is_dir():
            run = read_search(source / "journal.jsonl")
            architecture, possible = Architecture.load(source / "best.json"), run.possible
        else:
            architecture, possible = Architecture.load(source), None
        figure = draw_architecture(architecture, possible=possible)
    else:
        folders = [source] if against is None else [source, against]
        runs = {folder: read_search(folder / "journal.jsonl") for folder in folders}
        names = [run.strategy for run in runs.values()]
        distinct = len(set(names)) == len(names)
        figure = draw_fitness({run.strategy if distinct else str(folder): run for folder, run in runs.items()})
    save_figure(figure, out)
    print(f"wrote {out}")
