"""Destination: how a user names a machine to ssh."""

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
    """``[USER@]HOST`` or ``ssh://[USER@]HOST[:PORT]`` as it is, or an error.

    Raises:
        InputError: it is something else, or could be taken for an option or a shell line.
    """
    match = _FORMS[text.startswith("ssh://")].fullmatch(text)
    fault = ""
    if re.search(r"[^\x21-\x7e]|[\"'`$\\;&<>|(){}*?!#]", text):
        fault = "no host's name has such characters"
    elif match is None:
        fault = "not a host"
    elif text.startswith("-") or match["host"].startswith("-") or (match["user"] or "").startswith("-"):
        fault = "a host's name does not begin with a dash"
    if fault:
        raise InputError(fault, where=repr(text), hint="USER@HOST, a name in ssh's config, or ssh://USER@HOST:PORT")
    return text
