"""Journals in the form that a search writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irepdeploy.parsing.json_lines import append_line

__all__ = ["evolution", "write_journal"]


def evolution(index: int, accuracy: Sequence[float], **more: Any) -> dict[str, Any]:
    mean = sum(accuracy) / len(accuracy)
    values = {"index": index, "best": max(accuracy), "mean": mean, "accuracy": list(accuracy)}
    return {"event": "evolution", **values, **more}


def write_journal(folder: Path, *events: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for event in events:
        if isinstance(event, dict):
            append_line(folder / "journal.jsonl", event)
        else:
            with open(folder / "journal.jsonl", "a") as file:
                file.write(json.dumps(event) + "\n")
    return folder / "journal.jsonl"
