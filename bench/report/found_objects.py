"""Results of `irepdeploy detect`: detections in COCO's format, and the pictures next to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictStr

from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes
from irepdeploy.limits import JOURNAL
from irepdeploy.parsing.json_text import JsonError, parse_json
from irepdeploy.parsing.validation import validated
from irepdeploy.runs.schema import Count, Loss, Schema, Share

__all__ = ["DETECTIONS", "FoundObjects", "found_objects"]

DETECTIONS = "detections.json"
_HINT = "`irepdeploy detect` writes it"
_MOST_PICTURES = 4
_LARGEST_PICTURE = 400_000
_PNG = b"\x89PNG\r\n\x1a\n"


class _Entry(Schema):
    image_id: Count
    category_id: Count
    bbox: Annotated[tuple[Loss, ...], Field(min_length=4, max_length=4)]
    score: Share
    file_name: StrictStr = ""


@dataclass(frozen=True)
class FoundObjects:
    """Detections of a set of images.

    Attributes:
        images: Number of images with at least one detection.
        scores: Score of each detection.
        categories: Number of detections by category, in descending order.
        pictures: PNG files of the first images, by name.
    """

    path: Path
    label: str
    images: int
    scores: tuple[float, ...]
    categories: tuple[tuple[int, int], ...]
    pictures: tuple[tuple[str, bytes], ...]

    def above(self, score: float) -> int:
        """Return the number of detections with at least this score."""
        return sum(each >= score for each in self.scores)


def found_objects(path: Path, label: str) -> FoundObjects:
    """Read a detections.json.

    Raises:
        InputError: The file does not contain detections.
    """
    try:
        value = parse_json(read_bytes(path, "file of detections", JOURNAL))
    except JsonError as error:
        raise InputError(f"not a file of detections: {error}", where=path, hint=_HINT) from None
    entries = validated(_Entries, {"entries": value}, "a file of detections", where=path, hint=_HINT).entries
    counts = Counter(entry.category_id for entry in entries)
    return FoundObjects(
        path=path,
        label=label,
        images=len({entry.image_id for entry in entries}),
        scores=tuple(entry.score for entry in entries),
        categories=tuple(counts.most_common()),
        pictures=tuple(_pictures(path.parent, entries)),
    )


class _Entries(Schema):
    entries: tuple[_Entry, ...]


def _pictures(folder: Path, entries: Sequence[_Entry]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for name in dict.fromkeys(Path(entry.file_name).stem for entry in entries if entry.file_name):
        place = folder / f"{name}.png"
        if len(found) == _MOST_PICTURES:
            break
        # The name comes from a file, so only pictures in this very folder are shown.
        if place.parent == folder and place.is_file() and place.stat().st_size <= _LARGEST_PICTURE:
            content = read_bytes(place, "picture", _LARGEST_PICTURE)
            found += [(place.name, content)] if content.startswith(_PNG) else []
    return found
