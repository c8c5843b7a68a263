"""The verdict: a summary of the whole page in one sentence and one chart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from irepdeploy.errors import counted

from .charts.frame import Chart
from .charts.intervals import IntervalRow, intervals
from .columns import digits, interval_text
from .contest import Contest
from .gap import tied
from .gather import Gathered
from .run import Run
from .sections.comparing import WORDS, gap_chart
from .sections.curves import progress_chart
from .sections.detected import detection_claim
from .sections.overview import gap_to, reference_of, score_chart
from .sections.proofs import export_claim, hop_chart
from .tables import Table

__all__ = ["Verdict", "verdict_of"]

_MOST_NAMED = 3
_MOST_ROWS = 16


@dataclass(frozen=True)
class Verdict:
    """The main statement, further statements, and the chart of the main statement, if it can be drawn."""

    text: str
    others: tuple[str, ...]
    chart: Chart | None


def verdict_of(found: Gathered, tables: Sequence[Table]) -> Verdict:
    """Return the verdict on a whole page: failures first, then runs in progress, then comparisons.

    The chart is that of the first statement with a chart.
    """
    failed = [each for each in found.certificates if each.verdict != "passed"]
    running = [run for run in found.runs if run.held and not run.finished]
    stopped = [run for run in found.runs if not run.held and not run.finished]
    # Statements are grouped by kind; a chart is drawn only if there is no earlier one.
    parts: list[tuple[str, Callable[[], Iterable[Chart | None]]]] = [
        (export_claim(found.certificates) if failed else "", lambda: map(hop_chart, failed)),
        (_of_unfinished(running), lambda: [progress_chart(running)]),
        (_of_contests(found.contests), lambda: map(gap_chart, found.contests)),
        (_of_trainings(found.runs), lambda: [score_chart(found.runs), progress_chart(found.runs)]),
        (_of_searches(found.runs), lambda: [progress_chart([run for run in found.runs if run.is_search])]),
        (_of_latencies(tables), lambda: map(_ratios, tables)),
        ("" if failed else export_claim(found.certificates), lambda: map(hop_chart, found.certificates)),
        ("; ".join(map(detection_claim, found.detections[:_MOST_NAMED])), list),
        (_of_unfinished(stopped), lambda: [progress_chart(stopped)]),
    ]
    said = [(_sentence(text), charts) for text, charts in parts if text]
    if not said:
        return Verdict("There is nothing to compare here.", (), None)
    drawn = (chart for _, charts in said for chart in charts() if chart is not None)
    return Verdict(said[0][0], tuple(text for text, _ in said[1:]), next(drawn, None))


def _of_contests(contests: Sequence[Contest]) -> str:
    if not contests:
        return ""
    first, base = contests[0], contests[0].base.name
    gaps = first.gaps
    parts = []
    for look, words in WORDS.items():
        names = [name for name, gap in gaps.items() if gap.look == look]
        if names:
            figure = f" ({gaps[names[0]].text})" if len(names) == 1 else ""
            parts.append(f"{_few(names)} {words[len(names) > 1]} {base}{figure}")
    if not parts:
        parts = [f"one seed tells no difference from {base}"] if gaps else []
    more = f", and {counted(len(contests) - 1, 'more comparison')} below" if len(contests) > 1 else ""
    return f"{'; '.join(parts)} over {counted(len(first.base.scores), 'seed')}{more}" if parts else ""


def _of_trainings(runs: Sequence[Run]) -> str:
    pairs = [(run, reference) for run in runs if (reference := reference_of(run, runs)) is not None]
    if not pairs:
        done = [run for run in runs if run.finished and not run.is_search and run.score is not None]
        if len(done) != 1:
            return ""
        where = "on the test set" if done[0].tested else "on the search-validation set"
        return f"{done[0].label} has {done[0].metric.text(done[0].score or 0)} {done[0].metric.name} {where}"
    texts = []
    for run, reference in pairs[:_MOST_NAMED]:
        gap = gap_to(run, reference)
        if gap is not None:
            said = WORDS.get(gap.look)
            words = f"{said[0]} {reference.label} ({gap.text})" if said else f"is {gap.text} from {reference.label}"
            texts.append(f"{run.label} {words}")
    more = f", {len(pairs) - _MOST_NAMED} more below" if len(pairs) > _MOST_NAMED else ""
    return f"{'; '.join(texts)}{more}; one seed each"


def _of_searches(runs: Sequence[Run]) -> str:
    done = [run for run in runs if run.is_search and run.finished and run.score is not None]
    texts = [
        f"{run.label} keeps {run.branches} branches and scores {run.metric.text(run.score or 0)} by shared weights"
        for run in done[:_MOST_NAMED]
    ]
    return "; ".join(texts)


def _of_unfinished(runs: Sequence[Run]) -> str:
    texts = []
    for run in runs[:_MOST_NAMED]:
        best = "" if run.score is None else f", best so far {run.metric.text(run.score)} {run.metric.name}"
        texts.append(f"{run.label} is {run.state}{best}")
    return "; ".join(texts)


def _of_latencies(tables: Sequence[Table]) -> str:
    table = next((each for each in tables if len({row.model for row in each.rows}) > 1 and not each.offline), None)
    if table is None:
        return ""
    names = list(dict.fromkeys(row.model for row in table.fastest))
    times = digits(table.fastest[0].summary.median_ms)
    more = f", table {table.number} of {len(tables)}" if len(tables) > 1 else ""
    tie = f", a tie of {_few(names)}" if len(names) > 1 else f": {names[0]}"
    return f"Fastest on {table.device} with {table.runner}{more}{tie}, {times} ms"


def _ratios(table: Table) -> Chart | None:
    rows = [row for row in table.rows if row.measured and row.ratio is not None]
    if not rows or table.offline:
        return None
    drawn = []
    for row in rows[:_MOST_ROWS]:
        found = row.ratio
        assert found is not None
        known = found.low is not None and found.high is not None
        look = "" if not known else "tie" if tied(found) else "better" if found.value < 1 else "worse"
        text = f"{interval_text(found)}{', tie' if look == 'tie' else ''}"
        drawn.append(IntervalRow(row.model, found.value, text, found.low, found.high, look=look))
    title = f"Latency as a multiple of that of {table.reference.model}, table {table.number}"
    svg = intervals(drawn, title, "ratio of medians", mark=1.0)
    return Chart(title, "With 95 % intervals. Hollow: a tie.", svg)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    shown = names[:_MOST_NAMED]
    if more or len(shown) == 1:
        return f"{', '.join(shown)}{more}"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def _sentence(text: str) -> str:
    # A statement that begins with a name is not capitalised.
    return text if text.endswith(".") else f"{text}."
