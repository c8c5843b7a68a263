"""What the words of OpenSSH's client mean, as errors of ours."""

from __future__ import annotations

import re

from irepdeploy.errors import InputError, IrepdeployError, MissingError, RunError

__all__ = ["LostConnection", "disk_full", "not_connected"]


class LostConnection(RunError):
    """A connection that stood is gone."""


# The first that matches; `{host}` is what the user typed.
_REASONS: tuple[tuple[str, type[IrepdeployError], str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
        MissingError,
        "its host key is not the one that is known: another machine answers, or it was installed anew",
        "find out which; then: ssh-keygen -R HOST",
    ),
    (
        r"Host key verification failed|No \S+ host key is known|authenticity of host",
        MissingError,
        "its host key is not known here",
        "once, to look at its key and accept it: ssh {host}",
    ),
    (
        r"Permission denied|Too many authentication failures|No more authentication methods|Authentication failed",
        MissingError,
        "it refuses the login",
        "a key without a question is needed: ssh-copy-id {host}",
    ),
    (r"Could not resolve hostname", MissingError, "no such host", "check the name, or ssh's config"),
    (
        r"Bad owner or permissions|Bad configuration option|Can't open user config|bad configuration options?|argument",
        InputError,
        "ssh refuses its config: {text}",
        "mend the file that it names",
    ),
    (
        r"Connection refused|timed out|No route to host|Network is unreachable|Connection closed|Connection reset"
        r"|kex_exchange_identification|banner exchange|Broken pipe|UNKNOWN port",
        MissingError,
        "not reachable: {text}",
        "is it on, and is its ssh server running? try: ssh {host}",
    ),
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|File size limit exceeded")


def not_connected(host: str, text: str) -> IrepdeployError:
    """The error for a connection that never stood, from what ssh said."""
    said = last_line(text)
    for pattern, kind, what, hint in _REASONS:
        if re.search(pattern, text):
            # Where ssh said more than one thing, the one that matched.
            matched = next((line for line in text.splitlines() if re.search(pattern, line)), said)
            what = what.replace("{text}", one_line(matched))
            return kind(what, where=host, hint=hint.replace("{host}", host))
    return MissingError(f"ssh cannot connect: {said or 'it gave no reason'}", where=host, hint=f"try: ssh {host}")


def disk_full(text: str) -> bool:
    """Whether a program over there says that it cannot write for lack of space."""
    return bool(_FULL.search(text))


def last_line(text: str) -> str:
    """The last line that says something, without control characters."""
    lines = [one_line(line) for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def one_line(text: str) -> str:
    """One line without control characters, 300 at most: what comes from another machine may hold anything."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= 300 else line[:297] + "..."
