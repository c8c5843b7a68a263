"""Drawings of a training: its progress over the epochs, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.plots.figure import BLUE, ORANGE, SEQUENTIAL, draw_matrix, new_figure, picture, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from irepdeploy.runs.journal import Epoch

__all__ = ["draw_confusion", "draw_course"]

# With more classes, the number in each cell or the name of each row would be too small to read.
_MOST_NUMBERS, _MOST_NAMES = 20, 60


@picture
def draw_course(epochs: Sequence[Epoch], metric: str, percent: bool) -> Figure:
    """Draw the training loss and the score on the search-validation set by epoch, with the best epoch marked."""
    figure = new_figure(8.4, 3.2)
    left, right = figure.subplots(1, 2)
    numbers = [event.epoch + 1 for event in epochs]
    left.plot(numbers, [_number(event.loss) for event in epochs], color=BLUE)
    left.set_ylabel("training loss")
    factor = 100 if percent else 1
    scores = [factor * _number(event.val_accuracy) for event in epochs]
    right.plot(numbers, scores, color=BLUE)
    known = [place for place, score in enumerate(scores) if score == score]
    if known:
        best = max(known, key=lambda place: scores[place])
        right.plot([numbers[best]], [scores[best]], "o", color=ORANGE, label=f"best: epoch {numbers[best]}")
        right.legend(fontsize=8)
    right.set_ylabel(shown(f"{metric}, search-validation set" + (" (%)" if percent else "")))
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(axis="y", alpha=0.3)
    return figure


@picture
def draw_confusion(counts: Any, classes: Sequence[str], data: str) -> Figure:
    """Draw a confusion matrix with the share of each class's images by predicted class.

    Args:
        counts: Number of images by (true class, predicted class).
        classes: Names of the classes.
        data: Description of the images, for the title.
    """
    import numpy as np

    counts = np.asarray(counts, dtype=float)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    size = min(max(2.8, 0.42 * len(classes)), 14.0)
    figure = new_figure(size + 2.2, size + 1.4)
    axes = figure.add_subplot()
    form = ".0%" if len(classes) <= _MOST_NUMBERS else None
    image = draw_matrix(axes, shares, cmap=SEQUENTIAL, limits=(0, 1), form=form)
    if len(classes) <= _MOST_NAMES:
        names = [shown(name, 24) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(shown(f"{int(counts.trace())} of {int(counts.sum())} correct, {data}"), fontsize=10, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the class's images")
    return figure


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
