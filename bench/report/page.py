"""The page: one HTML file that needs no network, and that runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from irepdeploy import __version__
from irepdeploy.board.protocol import MIN_SAMPLES_P90, MIN_SAMPLES_P99

from .columns import digits
from .content import Content
from .device import system_facts
from .devices import Comparison
from .figures import Figure
from .gather import Certified
from .grid import definitions, grid, link_to, listed
from .latency import latency_section
from .markup import Html, join, tag
from .others import PlainTable
from .tables import Table

__all__ = ["page"]

_MEASURED = (
    "Each model is warmed up until the spread of a window of runs falls below 2.5 %, or a limit is reached: then its "
    "row is marked unsteady.",
    "All models of a run take turns, one inference each, in an order shuffled in every round, so that a drift of the "
    "machine meets all of them alike.",
    "Percentiles are nearest-rank: values that were measured. p90 is shown from "
    f"{MIN_SAMPLES_P90} samples on, p99 from {MIN_SAMPLES_P99}. No sample is left out or clipped.",
    "A ratio is one of medians, with a 95 % percentile bootstrap interval over blocks of rounds. It is about these "
    "runs; another run may lie outside it.",
    "Measurements of different protocol versions, devices, inputs or conditions never stand in one table.",
)
_CERTIFICATES = "What was exported from what, and by how much it differs; files are as they were certified unless said"
_OTHERS = (
    "As they were recorded. What one sample holds is the suite's own: rows may hold different amounts of work, and "
    "their times are not to be divided without it."
)


def page(content: Content, path: Path) -> str:
    """The whole page as it is to lie at `path`, to which its links are relative."""
    script, style = _asset("report.js"), _asset("report.css")
    # Nothing is loaded from anywhere, and a script that a file smuggled in has another digest.
    policy = f"default-src 'none'; img-src data:; script-src {_digest(script)}; style-src {_digest(style)}"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", content.title),
        tag("style", Html(style)),
    ]
    body = [
        tag("a", "Skip to the tables", href="#tables", class_="skip"),
        tag("header", tag("h1", content.title), tag("p", content.lede, class_="lede")),
        tag("main", *_sections(content, path)),
        tag("footer", tag("p", f"Made by irepdeploy {__version__} from raw samples.")),
        tag("div", id="tip", role="tooltip", hidden=True),
        tag("script", Html(script)),
    ]
    whole = tag("html", tag("head", join(head, "\n")), tag("body", join(body, "\n")), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _sections(content: Content, path: Path) -> list[Html]:
    certificates = {
        artefact.sha256: link_to(found.path, path)
        for found in content.certificates
        for artefact in found.certificate.artefacts
    }
    parts = {
        "Before you read": [listed(content.notes)] if content.notes else [],
        "Contents": [_contents(content.tables)] if len(content.tables) > 1 else [],
        "tables": _by_device(content.tables, certificates),
        "Differences between devices": [_comparison(each) for each in content.comparisons],
        "Other measurements": [_other(each) for each in content.others],
        "Searches": [_picture(each) for each in content.figures],
        "Certificates": [_certificates(content.certificates, path)] if content.certificates else [],
        "Systems": _systems(content.tables),
        "How it was measured": [listed(_MEASURED)] if content.tables else [],
    }
    if parts["Other measurements"]:
        parts["Other measurements"].insert(0, tag("p", _OTHERS))
    return [
        tag("div", *children, id="tables")
        if title == "tables"
        else tag("section", tag("h2", title), *children, id=title.lower().replace(" ", "-"))
        for title, children in parts.items()
        if children or title == "tables"
    ]


def _contents(tables: Sequence[Table]) -> Html:
    words = ("device", "suite", "scenario", "runner and conditions")
    heads = [("table", True), *((word, True) for word in words), ("models", False), ("fastest", True), ("ms", False)]
    rows = []
    for table in tables:
        fastest = min(table.rows, key=lambda row: row.summary.median_ms)
        rows.append(
            [
                tag("a", f"Table {table.number}", href=f"#{table.anchor}"),
                table.device,
                table.suite,
                table.scenario,
                table.title,
                str(len({row.model for row in table.rows})),
                tag("bdi", fastest.model),
                digits(fastest.summary.median_ms),
            ]
        )
    return grid("Tables of this report", heads, rows)


def _by_device(tables: Sequence[Table], certificates: Mapping[str, str]) -> list[Html]:
    parts: list[Html] = []
    several = len({table.protocol for table in tables}) > 1
    device: tuple[object, ...] = ()
    suite: tuple[object, ...] = ()
    for table in tables:
        if device != (table.protocol, table.device):
            version = f" (protocol version {table.protocol})" if several else ""
            parts.append(tag("h2", f"{table.device}{version}"))
        if suite != (table.protocol, table.device, table.suite, table.scenario):
            parts.append(tag("h3", f"{table.suite}, {table.scenario}"))
        device = table.protocol, table.device
        suite = *device, table.suite, table.scenario
        parts.append(latency_section(table, certificates))
    return parts


def _comparison(comparison: Comparison) -> Html:
    heads = [("model", True), *((column, False) for column in comparison.columns)]
    rows = [[tag("bdi", cells[0]), *cells[1:]] for cells in comparison.cells()]
    said = (
        f"Medians; behind them, how many times as long as on {comparison.columns[0]}, with the 95 % interval. These "
        "are different runs, so their samples were drawn apart."
    )
    return join([grid(comparison.title, heads, rows), tag("p", said, class_="below"), listed(comparison.claims)])


def _other(table: PlainTable) -> Html:
    heads = [(name, not table.is_number(index)) for index, name in enumerate(table.columns)]
    said = tag("p", table.conditions, class_="below") if table.conditions else Html("")
    return join([grid(f"{table.title} ({table.where})" if table.where else table.title, heads, table.rows), said])


def _picture(figure: Figure) -> Html:
    source = f"data:image/svg+xml;base64,{base64.b64encode(figure.svg.encode()).decode()}"
    caption = tag("figcaption", tag("b", figure.title), ". ", figure.text)
    return tag("figure", caption, tag("img", src=source, alt=figure.text, loading="lazy"))


def _certificates(found: Sequence[Certified], path: Path) -> Html:
    names = ("certificate", "made from", "for", "verdict", "largest error", "worst layer", "files")
    rows = [
        [
            tag("a", os.path.relpath(each.path, path.parent), href=link_to(each.path, path)),
            each.source,
            each.target,
            each.verdict,
            f"{each.certificate.max_rel_error:.1e}",
            each.certificate.worst_layer or "",
            each.files,
        ]
        for each in found
    ]
    return grid(_CERTIFICATES, [(name, name != "largest error") for name in names], rows)


def _systems(tables: Sequence[Table]) -> list[Html]:
    devices: dict[str, list[Table]] = {}
    for table in tables:
        devices.setdefault(table.device, []).append(table)
    return [
        join(
            [tag("h3", device), definitions(system_facts(record for each in some for record in each.records), "facts")]
        )
        for device, some in devices.items()
    ]
