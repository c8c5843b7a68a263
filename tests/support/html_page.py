"""HTML as seen by the parser of a browser."""

from __future__ import annotations

from html.parser import HTMLParser

__all__ = ["HtmlPage"]


class HtmlPage(HTMLParser):
    """Elements with their attributes, all text, and the text of each table's rows by the table's id."""

    def __init__(self, text: object) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._table: str | None = None
        self._cell = False
        self.feed(str(text))
        self.close()

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def attributes(self) -> dict[str, str | None]:
        """Attributes of all elements; if two have the same name, those of the later one."""
        return {name: value for _, attributes in self.elements for name, value in attributes.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self._table = dict(attrs).get("id")
        elif tag == "tr" and self._table:
            self.tables.setdefault(self._table, []).append([])
        elif tag in ("td", "th") and self._table:
            self._cell = True
            self.tables[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._table = None if tag == "table" else self._table

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell and self._table:
            self.tables[self._table][-1][-1] += data
