"""The pictures that a run writes to its folder: Architecture, progress, candidates by cost, and confusion matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.console import log
from irepdeploy.errors import IrepdeployError
from irepdeploy.runs.journal import JOURNAL, Epoch, SearchStart, Start, read_events

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_run_pictures"]


def save_run_pictures(folder: Path, confusion: Any = None, classes: Sequence[str] = (), data: str = "") -> list[Path]:
    """Draw the pictures of a finished run into its folder and return their paths. Failures are only logged.

    Args:
        folder: Folder of a search or a training.
        confusion: Confusion matrix to draw, number of images by (true class, predicted class); None for none.
        classes: Names of the classes.
        data: Description of these images.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        log(f"{folder}: no pictures, because matplotlib is not installed (pip install 'irepdeploy[report]')")
        return []
    from irepdeploy.plots.figure import save_figure
    from irepdeploy.plots.training_run import draw_confusion

    written = []
    try:
        for name, figure in _pictures(folder):
            written.append(save_figure(figure, folder / name))
        if confusion is not None:
            written.append(save_figure(draw_confusion(confusion, classes, data), folder / "confusion.png"))
    except IrepdeployError as error:
        # The run itself is already finished and saved.
        log(f"not every picture could be drawn: {error.line}")
    return written


def _pictures(folder: Path) -> Iterator[tuple[str, Figure]]:
    from irepdeploy.plots.architecture import draw_architectures
    from irepdeploy.plots.architecture_source import read_architecture
    from irepdeploy.plots.architecture_view import ArchitectureView
    from irepdeploy.plots.pareto import draw_pareto
    from irepdeploy.plots.search_history import SearchRun
    from irepdeploy.plots.search_run import draw_search
    from irepdeploy.plots.training_run import draw_course
    from irepdeploy.reparam.architecture import Architecture
    from irepdeploy.runs.pareto import ParetoSet

    label = folder.resolve().name
    events = read_events(folder / JOURNAL)
    start = next(event for event in events if isinstance(event, Start))
    if isinstance(start, SearchStart):
        yield "architecture.png", draw_architectures([read_architecture(folder, label)])
        yield "curves.png", draw_search({label: SearchRun.read(folder)})
        if (folder / "pareto.json").is_file():
            yield "pareto.png", draw_pareto(ParetoSet.read(folder / "pareto.json"))
        return
    if start.architecture is not None:
        architecture = Architecture.from_dict(start.architecture)
        yield "architecture.png", draw_architectures([ArchitectureView(label, architecture)])
    metric = ("accuracy", "%") if start.metric is None else (start.metric.name, start.metric.unit)
    epochs = [event for event in events if isinstance(event, Epoch)]
    yield "curves.png", draw_course(epochs, metric[0], metric[1] == "%")
