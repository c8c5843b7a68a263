"""Conversion of a figure drawn on white to one for dark pages: paper and ink are swapped, and colours get lighter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["darken", "on_dark"]

Colour = tuple[float, float, float, float]

# The colours of the report's page.
_PAPER = (0x14 / 255, 0x17 / 255, 0x1B / 255)
_INK = (0xE4 / 255, 0xE8 / 255, 0xEC / 255)
# Colours with a smaller difference between channels count as grey.
_GREY = 0.12
# The minimum contrast of text by WCAG 2.
_CONTRAST = 4.5
# Colour maps from white to dark, and their counterparts from paper to bright.
_MAPS = {"Blues": ("paper", "#1f5f8f", "#8ecdf7"), "PuOr_r": ("#b9a3e3", "#5b4a86", "paper", "#9c5a1c", "#f5b26b")}


def darken(figure: Figure) -> None:
    """Recolour all texts, lines, areas and heat maps of a figure, but not photographs and feature maps."""
    from matplotlib.collections import Collection
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    # Create the ticks first, because a tick label takes its colour from its tick when it is drawn.
    figure.draw_without_rendering()
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(on_dark(artist.get_color()))
        elif isinstance(artist, Line2D):
            # Read the marker colours before changing the line's, which they may follow.
            face, edge = artist.get_markerfacecolor(), artist.get_markeredgecolor()
            artist.set_color(on_dark(artist.get_color()))
            artist.set_markerfacecolor(on_dark(face))
            artist.set_markeredgecolor(on_dark(edge))
        elif isinstance(artist, Patch):
            face, edge = artist.get_facecolor(), artist.get_edgecolor()
            artist.set_facecolor(on_dark(face))
            artist.set_edgecolor(on_dark(edge))
        elif isinstance(artist, Collection):
            if artist.get_array() is None:
                artist.set_facecolor([on_dark(colour) for colour in artist.get_facecolor()])
                artist.set_edgecolor([on_dark(colour) for colour in artist.get_edgecolor()])
        elif isinstance(artist, AxesImage) and artist.get_cmap().name in _MAPS:
            artist.set_cmap(_map(artist.get_cmap().name))


def on_dark(colour: Any) -> Colour | str:
    """Return the counterpart of a colour: paper for white, ink for black, and light enough for text otherwise."""
    import colorsys

    from matplotlib.colors import to_rgba

    if isinstance(colour, str) and colour.lower() == "none":
        return colour
    red, green, blue, alpha = to_rgba(colour)
    if max(red, green, blue) - min(red, green, blue) < _GREY:
        # Shift greys in between, such as those of notes, towards the ink to keep them readable.
        light = ((red + green + blue) / 3) ** 2
        grey = [light * paper + (1 - light) * ink for paper, ink in zip(_PAPER, _INK, strict=True)]
        return grey[0], grey[1], grey[2], alpha
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while _contrast((red, green, blue)) < _CONTRAST and lightness < 1:
        lightness += 0.02
        red, green, blue = colorsys.hls_to_rgb(hue, min(lightness, 1.0), saturation)
    return red, green, blue, alpha


def _map(name: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    stops = [_PAPER if stop == "paper" else stop for stop in _MAPS[name]]
    return LinearSegmentedColormap.from_list(f"{name}_dark", stops).with_extremes(bad=_PAPER)


def _contrast(colour: tuple[float, float, float]) -> float:
    return (_luminance(colour) + 0.05) / (_luminance(_PAPER) + 0.05)


def _luminance(colour: tuple[float, float, float]) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
