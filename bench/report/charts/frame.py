"""Shared parts of the report's charts: the drawing area, shortened names, and a chart with its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..templates import Markup

__all__ = ["NARROW", "TEMPLATE", "Chart", "Frame", "short"]

TEMPLATE = "charts.html"
# Width in pixels that a phone shows without scrolling.
NARROW = 400
_LONGEST = 26


class Frame(NamedTuple):
    """The drawing area of a chart, in pixels."""

    height: int
    left: int
    right: int
    top: int
    bottom: int
    width: int = 720


@dataclass(frozen=True)
class Chart:
    """A chart with a title and a text below it.

    Args:
        svg: An SVG element.
        series: Names of the series that a reader can hide, in the order of their numbers in the chart.
    """

    title: str
    text: str
    svg: Markup
    series: tuple[str, ...] = ()


def short(name: str, longest: int = _LONGEST) -> str:
    """Return a name, truncated with an ellipsis if it is too long."""
    return name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
