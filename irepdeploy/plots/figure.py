"""What all pictures share: colours that colour-blind readers tell apart, and how a figure is written."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from irepdeploy.errors import OutputError
from irepdeploy.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "GREY", "ORANGE", "new_figure", "save_figure"]

# Out of the palette of Okabe and Ito.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREY = "#9A9A9A"

_FORMATS = (".png", ".svg")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, outside of pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG or SVG, by the file's ending, whole or not at all.

    Raises:
        OutputError: another ending, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise OutputError(
            f"cannot draw a {path.suffix or 'file without ending'}", where=path, hint="name it .png or .svg"
        )
    from matplotlib import rc_context

    buffer = io.BytesIO()
    kind = path.suffix.lower()[1:]
    # The same figure is the same file, on any day.
    with rc_context({"svg.hashsalt": "irepdeploy"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return write_bytes(path, buffer.getvalue())
