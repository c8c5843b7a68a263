"""Common parts of all figures: colour-blind-safe colours, verbatim names, and saving."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from irepdeploy.errors import OutputError, escaped
from irepdeploy.files import write_bytes
from irepdeploy.folders import make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "BLUE", "GREEN", "GREY", "MARKERS", "ORANGE", "PALETTE", "SEQUENTIAL", "draw_matrix", "figure_svg", "new_figure",
    "picture", "row_height", "save_figure", "shown", "shown_rows",
]  # fmt: skip

# The palette of Okabe and Ito without yellow, which is barely visible on white paper.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#9A9A9A"
# Used in addition to colours, for readers who cannot distinguish them.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# From white to dark in a single hue, so that it remains readable in grey.
SEQUENTIAL = "Blues"

_FORMATS = (".png", ".svg")
_FONT = "DejaVu Sans"
# Used if installed, for characters missing in matplotlib's own font.
_MORE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei")
_LONGEST_NAME = 48
_TALLEST = 26.0
_P = ParamSpec("_P")


def picture(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Decorate a drawing function to make it independent of the user's matplotlib settings.

    A dollar sign does not begin a formula in the figure, because names come from files.
    """

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        from matplotlib import rc_context

        settings: Any = {"text.parse_math": False, "font.family": _fonts(), "axes.axisbelow": True}
        with rc_context({**settings, "hatch.linewidth": 0.6}):
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure, with sizes in inches, outside pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def shown(name: str, longest: int = _LONGEST_NAME) -> str:
    r"""Return a drawable version of a name: characters without a font as ``\u5c42``, long names with an ellipsis."""
    known = _letters()
    text = "".join(c if c.isprintable() and ord(c) in known else escaped(c) for c in name)
    if len(text) <= longest:
        return text
    head = longest // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[head + 1 - longest :]}"


def row_height(rows: int, preferred: float) -> float:
    """Return the height of a row in inches, which is less than preferred if the picture would get too tall."""
    return min(preferred, _TALLEST / max(rows, 1))


def shown_rows(axes: Axes, names: Sequence[str], height: float, **text: Any) -> None:
    """Label the rows of `axes` from the top, each `height` inches high; label only every n-th row if they are low."""
    step = 1 if not height else max(1, int(-(-0.11 // height)))
    size = min(9.0, 62 * height * step)
    places = range(0, len(names), step)
    axes.set_yticks(places, [shown(names[place]) for place in places], fontsize=size, **text)


def draw_matrix(
    axes: Axes, values: Any, *, cmap: str, limits: tuple[float, float], form: str | None = None, size: float = 7
) -> AxesImage:
    """Draw a heat map; NaN values are white cells with a dash.

    Args:
        axes: Axes to draw on.
        values: Values (rows, columns).
        cmap: Name of the colour map.
        limits: Values of the first and last colour.
        form: Format of the number in each cell, such as "+.2f"; None for no numbers.
        size: Font size of the numbers.
    """
    import numpy as np
    from matplotlib import colormaps

    values = np.asarray(values, dtype=float)
    colours = colormaps[cmap].with_extremes(bad="white")
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="none"
    )
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.text(column, row, "\N{EN DASH}", ha="center", va="center", color=GREY, fontsize=size)
        elif form is not None:
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            text = format(0.0 if float(format(value, form).rstrip("%")) == 0 else value, form)
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=size)
    axes.tick_params(length=0)
    return image


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dark: bool = False) -> Path:
    """Write a figure atomically as PNG or SVG, depending on the extension, and return the path.

    Args:
        figure: Figure to write.
        path: Path ending in .png or .svg.
        dark: Recolour the figure for dark pages.

    Raises:
        OutputError: The extension is not supported, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise OutputError(
            f"cannot draw a {path.suffix or 'file without extension'}", where=path, hint="name it .png or .svg"
        )
    if dark:
        from irepdeploy.plots.dark import darken

        darken(figure)
    content = _rendered(figure, path.suffix.lower()[1:])
    return write_bytes(make_folder(path.parent) / path.name, content)


def figure_svg(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element to embed in a page."""
    text = _rendered(figure, "svg").decode()
    return text[text.index("<svg") :]


def _rendered(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context

    # Compute the layout once; savefig would draw the whole figure again for it.
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    # Make the file reproducible, so that it does not depend on the date.
    with rc_context({"svg.hashsalt": "irepdeploy"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


@functools.cache
def _fonts() -> list[str]:
    from matplotlib.font_manager import get_font_names

    return [_FONT, *(font for font in _MORE_FONTS if font in set(get_font_names()))]


@functools.cache
def _letters() -> frozenset[int]:
    """Return the code points that at least one of the fonts contains."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(code for font in _fonts() for code in get_font(findfont(font)).get_charmap())
