"""Detections: numbers of objects found in images, and their scores."""

from __future__ import annotations

from collections.abc import Sequence

from irepdeploy.errors import counted

from ..charts.frame import Chart
from ..charts.lines import COLOURS, Series, lines
from ..found_objects import FoundObjects
from ..others import PlainTable
from .section import Section

__all__ = ["detected", "detection_claim"]

# Default score threshold of the boxes that `irepdeploy detect` draws.
SURE = 0.3
_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def detection_claim(found: FoundObjects) -> str:
    """Return a sentence with the number of objects found."""
    count = counted(found.above(SURE), "detection")
    return f"{found.label}: {count} of at least {SURE:g} in {counted(found.images, 'image')}"


def detected(found: Sequence[FoundObjects]) -> Section | None:
    """Return a section with the counts of detections and the pictures of the first images."""
    if not found:
        return None
    heads = ("detections", "images", "all", *(f"from {level:g}" for level in (SURE, 0.5, 0.9)), "categories")
    rows = []
    for each in found:
        categories = ", ".join(f"{category} ({count:,})" for category, count in each.categories[:6])
        more = f" and {len(each.categories) - 6} more" if len(each.categories) > 6 else ""
        counts = (str(each.above(level)) for level in (0.0, SURE, 0.5, 0.9))
        rows.append((each.label, str(each.images), *counts, categories + more))
    series = [
        Series(each.label, tuple((level, each.above(level) / max(each.images, 1)) for level in _LEVELS), index)
        for index, each in enumerate(found[:COLOURS])
    ]
    title = "Detections of an image by their least score"
    svg = lines(series, title, "score", "detections of an image", whole=False)
    chart = Chart(title, "", svg, tuple(each.name for each in series))
    claims = tuple(f"{detection_claim(each)}." for each in found)
    text = "All detections count, right or wrong: `irepdeploy detect --annotations` scores them."
    return Section(
        "detections",
        "Detections",
        text,
        claims,
        (chart,),
        (PlainTable("Detections", "by their least score; categories by id", heads, tuple(rows)),),
        tuple((f"{each.label}, {name}", content) for each in found for name, content in each.pictures),
    )
