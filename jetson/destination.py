"""Destinations of ssh, as users name them."""

from __future__ import annotations

import re

from irepdeploy.errors import InputError

__all__ = ["check_destination"]

_USER = r"(?P<user>[^@]+@)?"
_FORMS = (
    re.compile(rf"{_USER}(?P<host>[^@:/]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%\w+)?)"),
    re.compile(rf"ssh://{_USER}(?P<host>[^@:/]+|\[[0-9A-Fa-f:.]+(%\w+)?\])(:\d+)?/?"),
)


def check_destination(text: str) -> str:
    """Return `text` if it is ``[USER@]HOST`` or ``ssh://[USER@]HOST[:PORT]``."""
    match = _FORMS[text.startswith("ssh://")].fullmatch(text)
    fault = ""
    if re.search(r"[^\x21-\x7e]|[\"'`$\\;&<>|(){}*?!#]", text):
        fault = "a host name cannot have such characters"
    elif match is None:
        fault = "expected a host"
    elif text.startswith("-") or match["host"].startswith("-") or (match["user"] or "").startswith("-"):
        fault = "a host name cannot begin with a dash"
    if fault:
        raise InputError(fault, where=repr(text), hint="use USER@HOST, a name in ssh's config, or ssh://USER@HOST:PORT")
    return text
