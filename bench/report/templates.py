"""Templates of the report: Jinja2 with autoescape, so that text from files can never become markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

__all__ = ["Markup", "asset", "clean", "macro", "render"]

# These characters reverse the direction of the text after them, so that a name could look like another one.
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object) -> str:
    """Return `text` on one line without control characters, safe for any encoding, terminal and page."""
    return "".join(map(_clean, str(text)))


def asset(name: str) -> Markup:
    """Return a file of this package as markup."""
    environment = _environment()
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def macro(template: str, name: str) -> Callable[..., Markup]:
    """Return a macro of a template."""
    function: Callable[..., Markup] = getattr(_environment().get_template(template).module, name)
    return function


def render(template: str, **values: Any) -> str:
    """Render a template; every value that is not `Markup` is cleaned and escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__ or "", "assets"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        keep_trailing_newline=True,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["lines"] = lambda text: Markup("\n").join(escape(clean(line)) for line in text.split("\n"))
    environment.filters["place"] = lambda value, scale: scale(value)
    return environment


def _clean(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI else character
