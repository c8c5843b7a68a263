"""Pictures of the runs in a report's folders, drawn by `irepdeploy.plots` if matplotlib is installed."""

from __future__ import annotations

import importlib.util
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from irepdeploy.console import log
from irepdeploy.errors import IrepdeployError

__all__ = ["Figure", "figures"]

# A folder with one of these files may contain something to draw.
_DRAWN = ("journal.jsonl",)


@dataclass(frozen=True)
class Figure:
    """A picture with a title. `text` is the alternative text; `svg` is an SVG element."""

    title: str
    text: str
    svg: str

    @property
    def base64(self) -> str:
        """The picture, encoded for a data URL."""
        return b64encode(self.svg.encode()).decode()


def figures(folders: Sequence[Path], note: Callable[[str], None] = log) -> list[Figure]:
    """Draw the weights and outputs of every search and training directly in `folders`.

    Without matplotlib there are no pictures, and runs that cannot be drawn are omitted; both are reported as notes.
    """
    runs = [folder for folder in folders if any((folder / name).is_file() for name in _DRAWN)]
    if not runs:
        return []
    if importlib.util.find_spec("matplotlib") is None:
        note("no pictures of the runs: matplotlib is not installed (pip install 'irepdeploy[report]')")
        return []
    from irepdeploy.plots.figure import figure_svg
    from irepdeploy.plots.folder_pictures import folder_pictures

    found: list[Figure] = []
    for folder in runs:
        try:
            found += [Figure(each.title, each.text, figure_svg(each.figure)) for each in folder_pictures(folder)]
        except IrepdeployError as error:
            note(f"no picture of a run: {error.line}")
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Reading a journal checks only part of it.
            note(f"no picture of a run: {folder}: damaged ({type(error).__name__})")
    return found
