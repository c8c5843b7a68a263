"""The page: one HTML file that loads nothing and runs only its own script."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from irepdeploy import __version__
from irepdeploy.board.protocol import MIN_SAMPLES_P90, MIN_SAMPLES_P99

from .certified import Certified
from .columns import digits
from .content import Content
from .device import system_facts
from .latency import latency_section
from .tables import Table
from .templates import asset, render

__all__ = ["page"]


def page(content: Content, path: Path, *, state: str = "") -> str:
    """Return the whole page.

    Args:
        content: Content of the page.
        path: Path of the page; links to certificates are relative to it.
        state: Identifier of the underlying data, for a served page that reloads itself; "" for a file.
    """
    script, style = asset("report.js"), asset("report.css")
    certificates = {
        artefact.sha256: _href(found.path, path)
        for found in content.certificates
        for artefact in found.certificate.artefacts
    }
    return render(
        "report.html",
        content=content,
        # Nothing is loaded from elsewhere, and a script injected by a file would have another digest.
        policy=f"default-src 'none'; img-src data:; script-src {_digest(script)}; style-src {_digest(style)}"
        + ("; connect-src 'self'" if state else ""),
        state=state,
        links=_links(content),
        pictures={each.key: [(name, _address(png)) for name, png in each.pictures] for each in content.later},
        script=script,
        style=style,
        contents=_contents(content.tables),
        sections=list(map(latency_section, content.tables)),
        several_protocols=len({table.protocol for table in content.tables}) > 1,
        certificates=certificates,
        exports=_exports(content.certificates, path),
        systems=_systems(content.tables),
        least_p90=MIN_SAMPLES_P90,
        least_p99=MIN_SAMPLES_P99,
        version=__version__,
    )


def _links(content: Content) -> list[tuple[str, str]]:
    """Return the sections of the page in order, as (id, title)."""
    exports = [("certificates", "Exports")] if content.certificates else []
    tables = [("tables", "Latency")] if content.tables else []
    pictures = [("pictures", "Pictures")] if content.figures else []
    before, after = ([(each.key, each.title) for each in some] for some in (content.sections, content.later))
    return [*before, *tables, *pictures, *exports, *after]


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _href(target: Path, page: Path) -> str:
    """Return the address of a file relative to the page."""
    relative = os.path.relpath(target, page.parent).replace(os.sep, "/")
    # A folder may be named like a URL scheme; quoting its colon avoids that.
    return quote(os.fsencode(relative), safe="/")


def _contents(tables: Sequence[Table]) -> dict[str, Any]:
    words = ("table", "device", "suite", "scenario", "runner and conditions")
    rows = []
    for table in tables:
        fastest = min(table.rows, key=lambda row: row.summary.median_ms)
        link = {"text": f"Table {table.number}", "href": f"#{table.anchor}"}
        facts = [table.device, table.suite, table.scenario, table.title, len({row.model for row in table.rows})]
        rows.append([link, *facts, fastest.model, digits(fastest.summary.median_ms)])
    heads = [*((word, True) for word in words), ("models", False), ("fastest", True), ("ms", False)]
    return {"heads": heads, "rows": rows}


def _exports(found: Sequence[Certified], path: Path) -> dict[str, Any]:
    names = ("certificate", "made from", "for", "verdict", "largest error", "worst layer", "files")
    rows = []
    for each in found:
        link = {"text": os.path.relpath(each.path, path.parent), "href": _href(each.path, path)}
        errors = [f"{each.certificate.max_rel_error:.1e}", each.certificate.worst_layer or ""]
        rows.append([link, each.source, each.target, each.verdict, *errors, each.files])
    return {"heads": [(name, name != "largest error") for name in names], "rows": rows}


def _systems(tables: Sequence[Table]) -> dict[str, list[tuple[str, str]]]:
    devices: dict[str, list[Table]] = {}
    for table in tables:
        devices.setdefault(table.device, []).append(table)
    return {
        device: system_facts(record for table in some for record in table.records) for device, some in devices.items()
    }
