"""Pareto front of latency and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (latency, accuracy) points that no other dominates, fastest first.

    A point dominates another if it is at least as fast and at least as accurate, and better in one of the two; equal
    points do not dominate each other.
    """
    front: list[int] = []
    # Of equal latency the more accurate come first; then only what is more accurate than all before is not dominated.
    for index in sorted(range(len(points)), key=lambda each: (points[each][0], -points[each][1])):
        latency, accuracy = points[index]
        if not front or accuracy > points[front[-1]][1] or (latency, accuracy) == points[front[-1]]:
            front.append(index)
    return front
