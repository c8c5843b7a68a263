"""Campaigns: many random cases that must all pass, counted for the table in docs/robustness.md."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Campaign", "campaign", "cases"]

# `make nightly` collects the counts here; `make test` writes none.
_FOLDER = Path(__file__).parents[2] / "build" / "campaigns"


def is_nightly() -> bool:
    """Return whether the tests run under hypothesis' nightly profile, as `make nightly` does."""
    return os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def cases(day: int, nightly: int) -> int:
    """Return the number of cases of a campaign: `day` in `make test`, `nightly` in `make nightly`."""
    return nightly if is_nightly() else day


class Campaign:
    """Counts of one campaign: passed cases by kind, and descriptions of failed ones."""

    def __init__(self) -> None:
        self.held: Counter[str] = Counter()
        self.failed: dict[str, list[str]] = {}

    def hold(self, kind: str) -> None:
        """Count a case that passed."""
        self.held[kind] += 1

    def fail(self, kind: str, what: str) -> None:
        """Count a case that failed; `what` tells how to repeat it (a seed, a place) and what happened."""
        self.failed.setdefault(kind, []).append(what)


@contextmanager
def campaign(name: str) -> Iterator[Campaign]:
    """Count the cases of a campaign, write the counts in the nightly run, and fail if any case failed.

    `name` is the name of the row in docs/robustness.md, such as "damaged checkpoints".
    """
    counts = Campaign()
    yield counts
    kinds = {
        kind: {"tried": counts.held[kind] + len(counts.failed.get(kind, ())), "held": counts.held[kind]}
        for kind in sorted({*counts.held, *counts.failed})
    }
    if is_nightly():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        path = _FOLDER / f"{name.replace(' ', '-')}.json"
        path.write_text(json.dumps({"campaign": name, "kinds": kinds}, indent=2) + "\n")
    shown = [f"{kind}: {what}" for kind, found in counts.failed.items() for what in found[:5]]
    assert not counts.failed, f"{sum(map(len, counts.failed.values()))} cases did not hold:\n" + "\n".join(shown)
    assert counts.held, "a campaign without a case"
