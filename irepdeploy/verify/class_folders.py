"""Read images of class folders together with the folder of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from irepdeploy.verify.input_files import ARRAYS, class_folders, input_files, read_file
from irepdeploy.verify.inputs import InputGroup, Wanted, signature_of
from irepdeploy.verify.samples import joined

__all__ = ["FolderImages"]


@dataclass(frozen=True)
class FolderImages:
    """Image files of class folders.

    Args:
        path: Folder that contains only folders.
        files: Image files.
        names: Names of all its folders in alphabetical order.
    """

    path: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, most: int) -> FolderImages | None:
        """List up to `most` images, one of each folder in turn; None if `path` contains anything else.

        With more folders than images, the folders are chosen evenly.

        Raises:
            InputError: The folder cannot be read or contains no images.
        """
        files = input_files(path)
        if any(file.parent.parent != path or file.suffix.lower() in ARRAYS for file in files):
            return None
        filled = len({file.parent for file in files})
        chosen = files[:most]
        if most < filled:
            chosen = [files[place] for place in np.linspace(0, filled - 1, most).round().astype(int)]
        return cls(path, tuple(chosen), tuple(folder.name for folder in class_folders(path)))

    def part(self, places: Sequence[int]) -> FolderImages:
        """Return the images at these places."""
        return FolderImages(self.path, tuple(self.files[place] for place in places), self.names)

    @property
    def folders(self) -> list[str]:
        """The name of the folder of each image."""
        return [file.parent.name for file in self.files]

    def read(self, wanted: Wanted, dataset: str | None) -> InputGroup:
        """Read the images as `read_inputs` does.

        Raises:
            InputError: An image is damaged or does not fit the input.
        """
        specs = signature_of(wanted).inputs
        read = [read_file(file, specs, dataset) for file in self.files]
        notes = dict.fromkeys(note for _, note in read)
        text = f"{len(read)} images of {self.path}{' or'.join(notes)}"
        return InputGroup(text, joined([images for images, _ in read]))
