"""The `plot` command: pictures of Architectures, searches, networks and records."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irepdeploy.cli.group import CommandGroup
from irepdeploy.cli.options import ModelOption
from irepdeploy.console import say
from irepdeploy.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

plot = typer.Typer(cls=CommandGroup, help="Draw Architectures, searches, networks and latencies as PNG or SVG.")

_OUT: Any = typer.Option("--out", "-o", help="Output file: .png or .svg.")
_Dark = Annotated[bool, typer.Option("--dark", help="Use colours for a dark background.")]


@plot.command("arch")
def plot_arch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]SOURCE",
            help="An Architecture file, a search or training folder, a checkpoint, or a name such as irep-resnet50.",
        ),
    ],
    diff: Annotated[
        bool, typer.Option("--diff", help="Show the differences between two sources in one matrix.")
    ] = False,
    model: ModelOption = None,
    out: Annotated[Path, _OUT] = Path("arch.png"),
    dark: _Dark = False,
) -> None:
    """Draw Architectures side by side, as matrices of layers by branches.

    Example: irepdeploy plot arch irep-resnet18 irep-resnet34 irep-resnet50 --out architectures.png
    """
    from irepdeploy.plots.architecture import draw_architectures, draw_difference
    from irepdeploy.plots.architecture_source import read_architecture

    if diff and len(sources) != 2:
        raise InputError(
            f"--diff compares two Architectures, got {len(sources)} source{'s' * (len(sources) != 1)}", hint="name two"
        )
    views = [read_architecture(path, label, model_factory=_factory(model)) for label, path in _labelled(sources)]
    _write(draw_difference(*views) if diff else draw_architectures(views), out, dark=dark)


@plot.command("search")
def plot_search(
    folders: Annotated[list[str], typer.Argument(metavar="[LABEL=]FOLDER", help="Search folders.")],
    against: Annotated[str | None, typer.Option(help="Another search folder to compare with.")] = None,
    out: Annotated[Path, _OUT] = Path("search.png"),
    dark: _Dark = False,
) -> None:
    """Draw the course of searches: fitness, diversity, alpha and beta, and the surviving branches of each layer.

    Example: irepdeploy plot search des=runs/search random=runs/search-random --out search.svg
    """
    from irepdeploy.plots.search_history import SearchRun
    from irepdeploy.plots.search_run import draw_search

    sources = [*folders, *([against] if against else [])]
    runs = {label: SearchRun.read(folder) for label, folder in _labelled(sources)}
    strategies = {run.strategy: run for run in runs.values()}
    if len(strategies) == len(runs) and not any(label for label, _ in map(_parts, sources)):
        runs = strategies
    _write(draw_search(runs), out, dark=dark)


@plot.command("features")
def plot_features(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]NET", help="Checkpoints, training folders, or networks by name."),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            help="An image or a .npy file; may be repeated. [the network's embedded data set, or photographs]",
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Draw only layers that match this pattern, such as 'layer3.*'.")
    ] = None,
    columns: Annotated[
        int, typer.Option("--columns", min=2, max=40, help="Maximum number of layers; evenly spaced ones are drawn.")
    ] = 10,
    model: ModelOption = None,
    out: Annotated[Path, _OUT] = Path("features.png"),
    dark: _Dark = False,
) -> None:
    """Draw the feature maps of convolutions with and without their branches, for several networks side by side.

    Example: irepdeploy plot features plain=runs/plain irep=runs/irep --images cat.jpg --out features.png
    """
    from irepdeploy.plots.feature_maps import read_features
    from irepdeploy.plots.features import draw_features

    found = read_features(
        dict(_labelled(networks)), images or [], layers=layers, columns=columns, model_factory=_factory(model)
    )
    _write(draw_features(found), out, dark=dark)


@plot.command("arch-weights")
def plot_arch_weights(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="[LABEL=]SOURCE", help="Search folders, training folders or checkpoints."),
    ],
    model: ModelOption = None,
    out: Annotated[Path, _OUT] = Path("arch-weights.png"),
    dark: _Dark = False,
) -> None:
    """Draw the weights of conv1x3 and conv3x1 relative to the dilated pairs, layer by layer.

    Example: irepdeploy plot arch-weights runs/search --out arch-weights.png
    """
    from irepdeploy.plots.arch_weights import draw_arch_weights, read_arch_weights

    named = _labelled(sources)
    found = [read_arch_weights(path, label, model_factory=_factory(model)) for label, path in named]
    _write(draw_arch_weights(found), out, dark=dark)


@plot.command("kernels")
def plot_kernels(
    network: Annotated[
        str, typer.Argument(metavar="[LABEL=]NET", help="A checkpoint, a training folder, or a network by name.")
    ],
    model: ModelOption = None,
    out: Annotated[Path, _OUT] = Path("kernels.png"),
    dark: _Dark = False,
) -> None:
    """Draw the weight in each fused kernel by tap, and the share of each branch.

    Example: irepdeploy plot kernels runs/irep --out kernels.png
    """
    from irepdeploy.plots.kernel_energy import read_kernels
    from irepdeploy.plots.kernels import draw_kernels

    ((label, path),) = _labelled([network])
    _write(draw_kernels(read_kernels(path, label, model_factory=_factory(model))), out, dark=dark)


@plot.command("latency")
def plot_latency(
    records: Annotated[list[Path], typer.Argument(help="Record files, or folders with a records.jsonl.")],
    top1: Annotated[
        list[str] | None,
        typer.Option(
            "--top1",
            metavar="MODEL=PERCENT",
            help="Accuracy of a model whose records have none; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path, _OUT] = Path("latency.png"),
    dark: _Dark = False,
) -> None:
    """Draw accuracy over latency for each device, with the Pareto front.

    Example: irepdeploy plot latency results --top1 plain=93.9 --top1 fused=95.4 --out latency.png
    """
    from irepdeploy.plots.latency import draw_latency
    from irepdeploy.plots.latency_points import latency_points, read_records

    _write(draw_latency(latency_points(read_records(records), dict(map(_accuracy, top1 or [])))), out, dark=dark)


def _write(figure: Figure, out: Path, *, dark: bool) -> None:
    from irepdeploy.plots.figure import save_figure

    save_figure(figure, out, dark=dark)
    say(f"wrote {out}")


def _factory(model: str | None) -> Callable[[], Any] | None:
    from irepdeploy.network.factory import load_model_factory

    return load_model_factory(model) if model else None


def _labelled(sources: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``LABEL=SOURCE`` or ``SOURCE`` into (label, source).

    The label defaults to the name of the file or folder, or to the whole path if two sources share that name.
    """
    parts = [_parts(text) for text in sources]
    shorts = [label or _short(source) for label, source in parts]
    found = [
        (label or (short if shorts.count(short) == 1 else source), source)
        for (label, source), short in zip(parts, shorts, strict=True)
    ]
    labels = [label for label, _ in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError("this label is used twice", where=twice, hint="label the sources: a=SOURCE b=SOURCE")
    return found


def _parts(text: str) -> tuple[str, str]:
    """Return the label ("" if there is none) and the source."""
    label, equals, source = text.partition("=")
    return (label, source) if equals and label and source and not os.path.exists(text) else ("", text)


def _short(source: str) -> str:
    path = Path(source)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.suffix in (".json", ".pt") else source


def _accuracy(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not name or not 0 <= value <= 100:
        raise InputError(f"expected MODEL=PERCENT such as fused=95.4, got {text!r}", where="--top1")
    return name, value
