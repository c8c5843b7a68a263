"""HTML put together so that text from a file can never become markup."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable

__all__ = ["Html", "clean", "join", "tag"]

_EMPTY = {"circle", "img", "line", "meta", "path", "rect"}
# They turn the reading order of what follows: a name could look like another one.
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Html(str):
    """Text that is markup already: what `tag` and `join` made, and files of this package."""

    __slots__ = ()


def clean(text: object) -> str:
    """`text` as any encoding, terminal and page can hold it: one line, without control characters."""
    return "".join(map(_clean, str(text)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """One element. Children that are no `Html` are escaped, and so is every attribute.

    An attribute is left out where it is None or False; an underscore in its name is a hyphen, and one at its end is
    dropped (``class_``). In an attribute line ends stay.
    """
    given = {key: value for key, value in attributes.items() if value is not None and value is not False}
    shown = "".join(_attribute(key, value) for key, value in given.items())
    return Html(f"<{name}{shown}/>" if name in _EMPTY else f"<{name}{shown}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts beside each other, escaped where they are no `Html`."""
    return Html(
        html.escape(between).join(part if isinstance(part, Html) else html.escape(clean(part)) for part in parts)
    )


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = "\n".join(map(clean, str(value).split("\n")))
    return f' {name}="{html.escape(text, quote=True)}"'


def _clean(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI else character
