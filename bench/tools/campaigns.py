"""Store the counts of the last nightly run's campaigns, and generate the table of docs/robustness.md from them.

``python -m irepdeploy.bench.tools.campaigns`` merges the counts in build/campaigns into docs/robustness.json,
replacing the earlier counts of each campaign, and regenerates the table; `make nightly` ends with it.
`irepdeploy.bench.tools.readme_tables` only generates and checks the table.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.files import read_bytes, write_json

from ..report.text import markdown_grid

__all__ = ["campaign_table", "main", "read_campaigns"]

_COUNTS, _RECORD, _PAGE = Path("build/campaigns"), Path("docs/robustness.json"), Path("docs/robustness.md")


def read_campaigns(path: Path) -> list[dict[str, Any]]:
    """Read the stored counts: name, date and counts by kind of each campaign."""
    try:
        found = json.loads(read_bytes(path, "record of campaigns"))
        for campaign in found:
            for kind, counts in campaign["kinds"].items():
                _ = campaign["campaign"] + campaign["date"] + kind, counts["tried"] - counts["held"]
        return list(found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"not a record of campaigns: {error}", where=path) from None


def campaign_table(campaigns: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of the cases tried and passed, one line per campaign, with its kinds folded below."""
    totals = [_sum(campaign["kinds"].values()) for campaign in campaigns]
    rows = [
        [campaign["campaign"], campaign["date"], f"{len(campaign['kinds'])}", *_cells(total)]
        for campaign, total in zip(campaigns, totals, strict=True)
    ]
    rows.append(["all", "", "", *_cells(_sum(totals))])
    heads = ["campaign", "last run", "kinds", "tried", "held"]
    parts = [markdown_grid(heads, rows, [True, True, False, False, False])]
    for campaign in campaigns:
        kinds = [[kind, *_cells(counts)] for kind, counts in campaign["kinds"].items()]
        grid = markdown_grid(["kind", "tried", "held"], kinds, [True, False, False])
        parts.append(f"<details><summary>{html.escape(campaign['campaign'])}</summary>\n\n{grid}\n\n</details>")
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge the new counts into the record, regenerate the table, and return the exit code."""
    argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.campaigns", description=__doc__).parse_args(
        arguments
    )
    from .readme_tables import main as refresh

    try:
        kept = {campaign["campaign"]: campaign for campaign in read_campaigns(_RECORD)} if _RECORD.exists() else {}
        for path in sorted(_COUNTS.glob("*.json")):
            made = json.loads(read_bytes(path, "counts of a campaign"))
            date = time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
            kept[made["campaign"]] = {"campaign": made["campaign"], "date": date, "kinds": made["kinds"]}
        if not kept:
            raise InputError("no counts of a campaign", where=_COUNTS, hint="make nightly")
        write_json(_RECORD, [kept[name] for name in sorted(kept)])
    except IrepdeployError as error:
        print(error.line, file=sys.stderr)
        return error.exit_code
    return refresh([str(_PAGE)])


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found = list(counts)
    return {name: sum(each[name] for each in found) for name in ("tried", "held")}


def _cells(counts: Mapping[str, int]) -> list[str]:
    return [f"{counts[name]:,}" for name in ("tried", "held")]


if __name__ == "__main__":
    raise SystemExit(main())
