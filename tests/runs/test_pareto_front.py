from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.runs.pareto_front import pareto_front

POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12)


@given(POINTS)
def test_what_no_other_dominates(points: list[tuple[int, int]]) -> None:
    def dominated(point: tuple[int, int]) -> bool:
        return any(a <= point[0] and b >= point[1] and (a, b) != point for a, b in points)

    found = pareto_front(points)
    assert sorted(found) == [index for index, point in enumerate(points) if not dominated(point)]
    assert [points[index][0] for index in found] == sorted(points[index][0] for index in found)


def test_nothing() -> None:
    assert pareto_front([]) == []
