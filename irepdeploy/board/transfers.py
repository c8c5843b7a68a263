"""The option whether a timed call includes the transfers between host and device."""

from __future__ import annotations

from irepdeploy.errors import InputError

__all__ = ["TRANSFERS", "known_transfers"]

TRANSFERS = ("excluded", "included")


def known_transfers(transfers: str, where: str) -> str:
    """Return `transfers`, or raise InputError unless it is one of `TRANSFERS`."""
    if transfers not in TRANSFERS:
        raise InputError(f"unknown transfers {transfers!r}", where=where, hint="one of " + ", ".join(TRANSFERS))
    return transfers
