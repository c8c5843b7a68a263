"""A table of text, with JSON and Markdown output."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Table", "markdown_of"]


@dataclass(frozen=True)
class Table:
    """A table with text cells under `columns`, and notes."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    @property
    def grid(self) -> str:
        """The cells in Markdown, without title and notes."""
        lines = [self.columns, tuple(":---" for _ in self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as a JSON object."""
        return asdict(self)


def markdown_of(tables: Iterable[Table], known: Collection[str] = ()) -> str:
    """Return tables in Markdown; a note is printed below the first table that has it, or not at all if it is known."""
    parts, said = [], set(known)
    for table in tables:
        parts += [f"**{table.title}**", table.grid]
        parts += [f"- {note}" for note in table.notes if note not in said]
        said.update(table.notes)
    # Blank lines, except between the items of a list.
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        text += f"{'' if not before else chr(10) if before[:2] == part[:2] == '- ' else chr(10) * 2}{part}"
    return text
