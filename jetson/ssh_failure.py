"""Convert messages of the OpenSSH client to irepdeploy's errors."""

from __future__ import annotations

import re

from irepdeploy.errors import InputError, IrepdeployError, MissingError, RunError, one_line

__all__ = ["LostConnection", "disk_full", "full_error", "not_connected"]


class LostConnection(RunError):
    """An open connection broke."""


# The first match counts; `{host}` is the destination as typed by the user.
_REASONS: tuple[tuple[str, type[IrepdeployError], str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key .* has changed",
        MissingError,
        "its host key has changed: another machine answers, or it was reinstalled",
        "find out which; if it was reinstalled: ssh-keygen -R HOST",
    ),
    (
        r"Host key verification failed|No \S+ host key is known|authenticity of host",
        MissingError,
        "its host key is unknown here",
        "to check and accept it, once: ssh {host}",
    ),
    (
        r"Permission denied|Too many authentication failures|No more authentication methods|Authentication failed",
        MissingError,
        "it refuses the login",
        "it needs a key without a passphrase prompt: ssh-copy-id {host}",
    ),
    (r"Could not resolve hostname", MissingError, "no such host", "check the name, or ssh's config"),
    (
        r"Bad owner or permissions|Bad configuration option|Can't open user config|bad configuration options?|argument",
        InputError,
        "ssh refuses its config: {text}",
        "fix the file that it names",
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
    """Return the error for a connection that failed, from ssh's messages."""
    last = last_line(text)
    for pattern, kind, what, hint in _REASONS:
        if re.search(pattern, text):
            # Quote the line that matched, which may not be the last one.
            matched = next((line for line in text.splitlines() if re.search(pattern, line)), last)
            what = what.replace("{text}", one_line(matched))
            return kind(what, where=host, hint=hint.replace("{host}", host))
    return MissingError(f"ssh cannot connect: {last or 'it gave no reason'}", where=host, hint=f"try: ssh {host}")


def disk_full(text: str) -> bool:
    """Return whether a remote program reports that its disk is full."""
    return bool(_FULL.search(text))


def full_error(host: str) -> RunError:
    """Return the error for a full disk on the board."""
    return RunError("its disk is full", where=host, hint="free some space there")


def last_line(text: str) -> str:
    """Return the last non-empty line, without control characters."""
    lines = [one_line(line) for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")
