"""Comparisons of strategies, presets or arms over seeds, with their differences from the first one."""

from __future__ import annotations

from collections.abc import Sequence

from irepdeploy.errors import counted

from ..charts.frame import Chart
from ..charts.intervals import IntervalRow, intervals
from ..charts.lines import Series, lines
from ..contest import Contest
from ..others import PlainTable
from .section import Section

__all__ = ["WORDS", "comparing", "contest_claim", "gap_chart"]

# Verdict as a verb, for one and for several arms.
WORDS = {
    "better": ("is better than", "are better than"),
    "worse": ("is worse than", "are worse than"),
    "tie": ("ties with", "tie with"),
}

_NOTE = (
    "Each arm ran with the same seeds. A difference is paired seed by seed, with Student's 95 % interval of its mean; "
    "if the interval contains 0, the arms tie. Before correction: the interval excludes 0, but not at Bonferroni's "
    "level for all differences of its table."
)


def comparing(contests: Sequence[Contest]) -> Section | None:
    """Return a section with the tables and charts of all contests."""
    if not contests:
        return None
    charts = [chart for each in contests for chart in (gap_chart(each), _curves(each)) if chart is not None]
    notes = dict.fromkeys(note for each in contests for note in each.notes)
    return Section(
        "comparisons",
        "Comparisons",
        " ".join([_NOTE, *notes]),
        tuple(contest_claim(each) for each in contests),
        tuple(charts),
        tuple(map(_table, contests)),
    )


def contest_claim(contest: Contest) -> str:
    """Return the result of a contest as a sentence."""
    gaps, base = contest.gaps, contest.base.name
    if not gaps:
        return f"{contest.title}: no seed is common to {base} and another arm."
    seeds = counted(len(contest.base.scores), "seed")
    parts = []
    for look, words in WORDS.items():
        names = [
            f"{name} ({gap.text}{', before correction' if gap.alone and look != 'tie' else ''})"
            for name, gap in gaps.items()
            if gap.look == look
        ]
        parts += [f"{_listed(names)} {words[len(names) > 1]} {base}"] if names else []
    unknown = [f"{name} ({gap.text})" for name, gap in gaps.items() if not gap.known]
    parts += [f"{_listed(unknown)}: one seed does not tell a difference from {base}"] if unknown else []
    return f"{contest.title}, {contest.figure}, {seeds}. {'; '.join(parts)}."


def gap_chart(contest: Contest) -> Chart | None:
    """Draw the differences of all arms from the first one; return None if there are none."""
    if not contest.gaps:
        return None
    rows = [
        IntervalRow(name, gap.value, f"{gap.text}, {gap.verdict}", gap.low, gap.high, look=gap.look)
        for name, gap in contest.gaps.items()
    ]
    unit = next(iter(contest.gaps.values())).unit.strip()
    axis = f"difference from {contest.base.name}" + (f", {unit}" if unit else "")
    title = f"{contest.title}: {contest.figure}"
    return Chart(title, "Filled: better or worse. Hollow: a tie.", intervals(rows, title, axis, mark=0.0))


def _curves(contest: Contest) -> Chart | None:
    if not contest.curves:
        return None
    series = [Series(name, points, index) for index, (name, points) in enumerate(contest.curves.items())]
    title = f"{contest.title}: best so far"
    metric = contest.metric
    svg = lines(series, title, "candidates scored", f"{metric.name}, shared weights", metric.unit and f" {metric.unit}")
    return Chart(title, "Mean over seeds.", svg, tuple(contest.curves))


def _table(contest: Contest) -> PlainTable:
    unit = contest.metric.marked
    heads = ("arm", "branches", "seeds", f"{contest.figure}{unit}", "difference", "verdict", "training, s")
    rows = []
    for arm in contest.arms:
        gap = contest.gaps.get(arm.name)
        rows.append(
            (
                arm.name,
                "" if arm.branches is None else str(arm.branches),
                str(len(arm.scores)),
                contest.spread(arm).text,
                "" if gap is None else gap.text,
                "" if gap is None else gap.verdict,
                "" if arm.cost is None else f"{arm.cost:.3g}",
            )
        )
    return PlainTable(contest.title, "", heads, tuple(rows))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
