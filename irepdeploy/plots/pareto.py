"""The Pareto set of a search, drawn from its pareto.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes
from irepdeploy.plots.figure import BLUE, GREY, new_figure, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_pareto", "read_pareto"]

_AXES = (("macs", 1e6, "MACs of a forward pass, train state (millions)"), ("memory_bytes", 1e6, "training memory (MB)"))
_KINDS: Mapping[str, Any] = {
    "rank": int,
    "digest": str,
    "branches": int,
    "val_accuracy": (int, float),
    "macs": int,
    "memory_bytes": int,
    "pareto": bool,
}


def read_pareto(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a search's pareto.json.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        value = json.loads(read_bytes(path, "pareto.json of a search"))
        for candidate in value["candidates"]:
            if not all(isinstance(candidate[key], kinds) for key, kinds in _KINDS.items()):
                raise TypeError
        if not value["candidates"] or not isinstance(value["batch_size"], int) or not isinstance(value["notes"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            "not the pareto.json of a search", where=path, hint="`irepdeploy search` writes it at its end"
        ) from None
    return value


@picture
def draw_pareto(found: Mapping[str, Any]) -> Figure:
    """Accuracy against MACs and against memory; those that no other candidate beats are filled and numbered by rank."""
    candidates: Sequence[Mapping[str, Any]] = found["candidates"]
    front = [candidate for candidate in candidates if candidate["pareto"]]
    figure = new_figure(9.2, 3.8)
    for axes, (key, unit, label) in zip(figure.subplots(1, 2, sharey=True), _AXES, strict=True):
        axes.plot(
            [candidate[key] / unit for candidate in candidates],
            [100 * candidate["val_accuracy"] for candidate in candidates],
            "o",
            color=GREY,
            markerfacecolor="none",
            markersize=5,
            label="population",
        )
        axes.plot(
            [candidate[key] / unit for candidate in front],
            [100 * candidate["val_accuracy"] for candidate in front],
            "o",
            color=BLUE,
            markersize=6,
            label="Pareto set",
        )
        for candidate in front:
            place = candidate[key] / unit, 100 * candidate["val_accuracy"]
            axes.annotate(str(candidate["rank"]), place, (4, 4), textcoords="offset points", fontsize=7)
        batch = f", batch {found['batch_size']}" if key == "memory_bytes" else ""
        axes.set_xlabel(label.replace(")", f"{batch})") if batch else label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy, search-validation set (%)")
    figure.axes[0].legend(fontsize=8)
    return figure
