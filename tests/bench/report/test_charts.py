from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from irepdeploy.bench.report.charts.boxes import box_plots
from irepdeploy.bench.report.charts.scatter import Point, scatter
from irepdeploy.bench.report.latency import accuracy_chart
from irepdeploy.bench.report.scale import latency_scale, linear_scale
from irepdeploy.bench.report.tables import Table, tables_of
from irepdeploy.board.protocol import percentile
from irepdeploy.runs.record import Record

Make = Callable[..., Record]
LATENCY = st.floats(1e-4, 1e5)


def table(records: list[Record]) -> Table:
    return tables_of(records)[0]


def at(make_record: Make, points: dict[str, tuple[float, float]]) -> Table:
    """A table of models that took exactly (ms) and have an accuracy of (percent)."""
    return table(
        [
            make_record(name, samples_ns=[int(ms * 1e6)] * 8, facts={"top1": top1, "top1_source": "s"})
            for name, (ms, top1) in points.items()
        ]
    )


def test_the_front_is_what_no_other_beats(make_record: Make) -> None:
    points = {"slow": (9.0, 80.0), "fast": (3.0, 70.0), "beaten": (5.0, 70.0), "between": (6.0, 75.0)}
    chart = accuracy_chart(at(make_record, points).rows, "t")
    assert chart is not None
    tips = {tip.split("&#10;")[0].split("\n")[0]: tip for tip in re.findall(r'data-tip="([^"]*)"', chart)}
    assert set(tips) == set(points)
    assert [name for name, tip in tips.items() if "not on the Pareto front" in tip] == ["beaten"]
    assert chart.count('class="dot front"') == 3 and chart.count('class="dot"') == 1
    # Steps over three points: latency first, then accuracy.
    (steps,) = re.findall(r'<path d="([^"]*)" class="pareto"', chart)
    assert (steps.count("M"), steps.count("H"), steps.count("V")) == (2, 2, 2)


def test_what_is_within_noise_is_as_good() -> None:
    def point(name: str, cost: float, score: float, *ties: str, spread: float = 0.0) -> Point:
        return Point(name, cost, score, name, costs=(cost - spread, cost + spread), ties=frozenset(ties))

    cheap, dear = point("cheap", 1.0, 80.0), point("dear", 2.0, 81.0)
    assert not cheap.beats(dear) and not dear.beats(cheap)
    # A tie in the score: the cheaper one is as good.
    for one, other in ((point("cheap", 1.0, 80.0, "dear"), dear), (cheap, point("dear", 2.0, 81.0, "cheap"))):
        assert one.beats(other) and not other.beats(one)
    # A tie in the cost: the one with the better score is as good.
    one, other = point("cheap", 1.0, 80.0, spread=0.6), point("dear", 2.0, 81.0, spread=0.6)
    assert other.beats(one) and not one.beats(other)
    assert point("a", 1.0, 80.0).beats(point("b", 2.0, 80.0)) and not point("a", 1.0, 80.0).beats(point("b", 1.0, 80.0))
    svg = scatter([point("cheap", 1.0, 80.0, "dear"), dear], "t", "s", "%")
    assert (svg.count('class="dot front"'), svg.count('class="dot"')) == (1, 1)


def test_points_lie_where_their_figures_say(make_record: Make) -> None:
    chart = accuracy_chart(at(make_record, {"a": (2.0, 60.0), "b": (4.0, 80.0), "c": (8.0, 90.0)}).rows, "t")
    assert chart is not None
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5.5"', chart)
    (ax, ay), (bx, by), (cx, cy) = [(float(x), float(y)) for x, y in dots]
    # Linear from 0: twice as slow is twice as far to the right; more accurate is higher.
    assert (bx - 56) == pytest.approx(2 * (ax - 56), abs=0.3)
    assert (cx - 56) == pytest.approx(4 * (ax - 56), abs=0.5)
    assert (by - ay) == pytest.approx(2 * (cy - by), abs=0.3) and cy < by < ay


def test_there_is_nothing_to_draw_below_two_accuracies(make_record: Make) -> None:
    assert accuracy_chart(at(make_record, {"a": (2.0, 60.0)}).rows, "t") is None
    assert accuracy_chart(table([make_record("a"), make_record("b")]).rows, "t") is None


def test_every_sample_beyond_the_whiskers_is_drawn(make_record: Make) -> None:
    samples = [10_000_000 + 100_000 * index for index in range(20)] + [30_000_000, 45_000_000, 90_000_000, 2_000_000]
    chart = box_plots(table([make_record("a", samples_ns=samples)]).rows, "t")
    assert chart.count('class="beyond"') == 4
    assert "24 samples, 4 beyond the whiskers" in chart
    quartiles = [percentile(samples, share) / 1e6 for share in (25, 75)]
    assert f"quartiles {quartiles[0]:.1f} and {quartiles[1]:.1f} ms" in chart
    assert "least 2.00, most 90.0 ms" in chart


def test_a_sample_of_one_value_is_a_box(make_record: Make) -> None:
    chart = box_plots(table([make_record("a", samples_ns=[5_000_000] * 3)]).rows, "t")
    assert "nan" not in chart and chart.count('class="box"') == 1


def test_names_become_text(make_record: Make) -> None:
    hostile = '</text><script>alert(1)</script>" onfocus="alert(1)'
    points = at(make_record, {hostile: (2.0, 60.0), "b": (3.0, 61.0)})
    for chart in (accuracy_chart(points.rows, hostile), box_plots(points.rows, hostile)):
        assert chart is not None
        assert "<script" not in chart and 'onfocus="' not in chart.replace("&quot;", "")


@given(st.lists(LATENCY, min_size=1, max_size=20))
def test_a_latency_axis_holds_all_values_in_order(values: list[float]) -> None:
    scale = latency_scale(values, 100, 700)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(99.9 <= place <= 700.1 for place in places)
    assert scale.log == (max(values) / min(values) > 6)
    assert scale.low <= min(values) and max(values) <= scale.high
    ticks = [scale(tick) for tick in scale.ticks]
    assert 2 <= len(ticks) <= 32 and ticks == sorted(ticks)
    assert math.isclose(ticks[0], 100) and math.isclose(ticks[-1], 700)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
@example([0.0, 2e-311])
def test_an_accuracy_axis_holds_all_values(values: list[float]) -> None:
    scale = linear_scale(values, 300, 20)
    assert all(19.9 <= scale(value) <= 300.1 for value in values)
    assert scale(max(values)) <= scale(min(values))
