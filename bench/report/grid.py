"""Grid: a plain table of text on the page, and what is around every table and chart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from .markup import Html, tag

__all__ = ["definitions", "grid", "link_to", "listed", "scroll"]


def grid(title: str, heads: Sequence[tuple[str, bool]], rows: Sequence[Sequence[object]]) -> Html:
    """A table whose first cells head their rows.

    Args:
        heads: name of each column, and whether it holds words; numbers stand on the right.
    """
    head = tag("tr", *(tag("th", name, scope="col", class_=_style(words)) for name, words in heads))
    body = [
        tag(
            "tr",
            tag("th", cells[0], scope="row"),
            *(tag("td", cell, class_=_style(words)) for cell, (_, words) in zip(cells[1:], heads[1:], strict=True)),
        )
        for cells in rows
    ]
    return scroll(tag("table", tag("caption", title), tag("thead", head), tag("tbody", *body)), title)


def definitions(facts: Sequence[tuple[object, object]], style: str | None = None) -> Html:
    """Names with their values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_=style)


def listed(items: Sequence[object], name: str = "ul", **attributes: object) -> Html:
    """A list; nothing where there are no items."""
    return tag(name, *(tag("li", item) for item in items), **attributes) if items else Html("")


def scroll(content: Html, label: str) -> Html:
    """Something that scrolls by itself where the screen is too narrow; so the keyboard must reach it."""
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def link_to(target: Path, page: Path) -> str:
    """A relative address of a file from the page's place."""
    relative = os.path.relpath(target, page.parent).replace(os.sep, "/")
    # A folder may be named like a scheme: quoted, its colon makes none.
    return quote(os.fsencode(relative), safe="/")


def _style(words: bool) -> str:
    return "words" if words else "number"
