"""The content of a report, independent of its format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from irepdeploy.errors import counted

from .certified import Certified
from .columns import when
from .devices import Comparison, comparisons_of
from .figures import Figure, figures
from .gather import Gathered, gather
from .others import PlainTable, plain_tables
from .scores import score_table
from .sections.architectures import architectures
from .sections.comparing import comparing
from .sections.costs import costs
from .sections.curves import curves
from .sections.detected import detected
from .sections.overview import overview
from .sections.proofs import proofs
from .sections.section import Section
from .sections.sensitivity import sensitivity
from .tables import Table, tables_of
from .verdict import Verdict, verdict_of
from .with_scores import with_scores

__all__ = ["Content", "content_of"]

# Limited, since a picture of a run's weights takes seconds.
_MOST_PICTURED = 8


@dataclass(frozen=True)
class Content:
    """Content of a report. `lede` summarizes it in one sentence.

    `sections` come before the latency tables, `later` after them.
    """

    title: str
    verdict: Verdict
    lede: str = ""
    notes: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    later: list[Section] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    others: list[PlainTable] = field(default_factory=list)
    scores: PlainTable | None = None
    figures: list[Figure] = field(default_factory=list)
    certificates: list[Certified] = field(default_factory=list)


def content_of(places: Sequence[str | os.PathLike[str]], title: str = "Report", *, pictures: bool = True) -> Content:
    """Read folders and files and return the content of their report; `pictures` adds pictures by matplotlib."""
    found = gather(places)
    tables = tables_of(with_scores(found))
    others, left = plain_tables(found.others)
    if left:
        found.notes.append(f"Not shown, since they hold neither samples nor figures: {', '.join(left)}.")
    pictured = found.runs[:_MOST_PICTURED] if pictures else []
    if pictures and len(found.runs) > _MOST_PICTURED:
        found.notes.append(f"Pictures of weights and outputs: only of the first {_MOST_PICTURED} runs.")
    drawn = figures([run.folder for run in pictured], found.note)
    scores = score_table([run.folder for run in found.runs], found.note)
    sections = [
        overview(found.runs, scores),
        comparing(found.contests),
        costs(found.runs, found.contests, found.note),
        curves(found.runs),
        architectures(found.runs),
    ]
    later = [proofs(found.certificates), sensitivity(found.certificates), detected(found.detections)]
    verdict = verdict_of(found, tables)
    return Content(
        title=title,
        verdict=verdict,
        lede=_lede(tables, len(others), found),
        notes=[*_notes(tables), *found.notes],
        sections=[section.without(verdict.chart) for section in sections if section is not None],
        later=[section.without(verdict.chart) for section in later if section is not None],
        tables=tables,
        comparisons=comparisons_of(tables),
        others=others,
        scores=scores,
        figures=drawn,
        certificates=found.certificates,
    )


def _lede(tables: Sequence[Table], others: int, found: Gathered) -> str:
    records = [record for table in tables for record in table.records]
    searches = sum(run.is_search for run in found.runs)
    trainings = len(found.runs) - searches
    parts = [counted(searches, "search", "searches")] if searches else []
    parts += [counted(trainings, "training")] if trainings else []
    parts += [counted(len(found.contests), "comparison")] if found.contests else []
    if records:
        times = sorted(when(record.created) for record in records)
        same_day = times[0][:10] == times[-1][:10]
        last = times[-1][11:] if same_day else times[-1]
        span = times[0] if times[0] == times[-1] else f"{times[0]} to {last}"
        models = len({row.model for table in tables for row in table.rows})
        devices = len({table.device for table in tables})
        parts.append(
            f"{counted(len(records), 'measurement')} of {counted(models, 'model')} on {counted(devices, 'device')}, "
            f"taken {span} UTC"
        )
    parts += [counted(others, "other table")] if others else []
    parts += [counted(len(found.certificates), "certificate")] if found.certificates else []
    parts += [counted(len(found.detections), "set of detections", "sets of detections")] if found.detections else []
    return "; ".join(parts) + "."


def _notes(tables: Sequence[Table]) -> list[str]:
    rows = [row for table in tables for row in table.rows]
    versions = sorted({table.protocol for table in tables})
    notes = []
    if len(versions) > 1:
        notes.append(
            f"The records are of protocol versions {' and '.join(map(str, versions))}. Figures of different versions"
            " are listed separately and not compared."
        )
    unsteady = sum(not row.steady for row in rows)
    if unsteady:
        notes.append(f"{unsteady} of {counted(len(rows), 'row')} are marked unsteady: the device was not quiet enough.")
    throttled = sum(bool(row.throttled) for row in rows)
    if throttled:
        notes.append(f"{throttled} of {counted(len(rows), 'row')} were measured while the device throttled.")
    if any("not measured" in row.top1_source for row in rows):
        notes.append("Accuracies labelled 'paper, not measured' are published figures; nothing here repeats them.")
    if any("random weights" in row.record.source for row in rows):
        notes.append(
            "Some networks have random weights: this does not change latencies, but their outputs mean nothing."
        )
    return notes
