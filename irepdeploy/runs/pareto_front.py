"""The Pareto front of latency and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["pareto_front"]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (latency, accuracy) points that no other point dominates, fastest first.

    A point dominates another if it is at least as fast and at least as accurate, and strictly better in one of the two.
    Equal points do not dominate each other.
    """
    front: list[int] = []
    # Equal latencies are sorted by accuracy, so a point is dominated unless it is more accurate than all before it.
    for index in sorted(range(len(points)), key=lambda each: (points[each][0], -points[each][1])):
        latency, accuracy = points[index]
        if not front or accuracy > points[front[-1]][1] or (latency, accuracy) == points[front[-1]]:
            front.append(index)
    return front
