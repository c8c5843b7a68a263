"""Write a report: page, CSV and Markdown side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irepdeploy.console import quoted
from irepdeploy.errors import OutputError
from irepdeploy.files import write_bytes
from irepdeploy.folders import output_folder

from .content import Content, content_of
from .page import page
from .sections.proofs import hop_figures
from .text import csv_text, markdown_text, row_json

__all__ = ["Written", "write_report"]

_NAME = "report"


@dataclass(frozen=True)
class Written:
    """Files of a report, the page first, and their content."""

    files: list[Path]
    content: Content

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "files": [str(path) for path in self.files],
            "verdict": [self.content.verdict.text, *self.content.verdict.others],
            "notes": self.content.notes,
            "sections": [
                {
                    "title": each.title,
                    "claims": each.claims,
                    "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in each.tables],
                }
                for each in (*self.content.sections, *self.content.later)
            ],
            "certificates": [
                {"name": each.name, "verdict": each.verdict, "hops": hop_figures(each)}
                for each in self.content.certificates
            ],
            "rows": [row_json(table, row) for table in self.content.tables for row in table.rows],
        }


def write_report(
    places: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    title: str = "Report",
) -> Written:
    """Write a report on folders and files.

    Args:
        places: Folders, which are read recursively, and files.
        out: Path of the page, NAME.html, or a folder for report.html. Default: report.html in the first folder.
        title: Heading of the page.

    Raises:
        InputError: A place does not exist, there is nothing to report, or `out` does not end in .html.
        OutputError: The report cannot be written.
    """
    content = content_of(places, title)
    first = Path(places[0])
    target = Path(out) if out is not None else first if first.is_dir() else first.parent
    if target.suffix.lower() == ".html" and not target.is_dir():
        folder, name = target.parent, target.name
    elif target.exists() and not target.is_dir():
        raise OutputError(
            "expected a name that ends in .html", where=target, hint=f"--out {quoted(target.with_suffix('.html'))}"
        )
    else:
        folder, name = target, f"{_NAME}.html"
    path = folder / name
    texts = {
        path: page(content, path),
        path.with_suffix(".csv"): csv_text(content.tables),
        path.with_suffix(".md"): markdown_text(
            content.title,
            [content.verdict.text, *content.verdict.others, *content.notes],
            content.tables,
            content.comparisons,
            content.scores,
            (*content.sections, *content.later),
        ),
    }
    with output_folder(folder):
        files = [write_bytes(place, text.encode("utf-8", "replace")) for place, text in texts.items()]
    return Written(files, content)
