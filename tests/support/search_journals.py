"""Journals as a search writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irepdeploy.files import append_line

__all__ = ["evolution", "write_journal"]


def evolution(index: int, accuracy: Sequence[float], **more: Any) -> dict[str, Any]:
    mean = sum(accuracy) / len(accuracy)
    values = {"index": index, "best": max(accuracy), "mean": mean, "accuracy": list(accuracy)}
    return {"event": "evolution", **values, **more}


def write_journal(folder: Path, *events: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for event in events:
        append_line(folder / "journal.jsonl", event)
    return folder / "journal.jsonl"
