"""Table rows for the top-5 accuracy, which is reported for more than ten classes."""

from __future__ import annotations

from collections.abc import Mapping

from irepdeploy.tasks import TOP_5

__all__ = ["top_5_rows"]


def top_5_rows(figures: Mapping[str, Mapping[str, float]]) -> list[list[object]]:
    """Return a row for each named set whose figures include a top-5 accuracy."""
    return [[f"{TOP_5} {name}", f"{each[TOP_5]:.2%}"] for name, each in figures.items() if TOP_5 in each]
