"""Pictures of a run's weights and outputs for the report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from irepdeploy.console import log
from irepdeploy.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FolderPicture", "folder_pictures"]


@dataclass(frozen=True)
class FolderPicture:
    """A picture with a title; `text` describes it for readers who cannot see it."""

    title: str
    text: str
    figure: Figure


def folder_pictures(folder: str | os.PathLike[str]) -> Iterator[FolderPicture]:
    """Draw the pictures of a run that the report does not draw by itself.

    These are the branch weights of a search, or the kernel energies and feature maps of a training with branches.
    """
    folder = Path(folder)
    name = folder.resolve().name
    if (folder / "best.pt").is_file():
        yield from _of_training(folder, name)
    elif (folder / "journal.jsonl").is_file() and (folder / "best.json").is_file():
        yield from _of_search(folder, name)


def _of_search(folder: Path, name: str) -> Iterator[FolderPicture]:
    from irepdeploy.plots.arch_weights import draw_arch_weights, search_weights
    from irepdeploy.plots.search_history import SearchRun

    run = SearchRun.read(folder)
    if run.alpha() is None or run.beta() is None:
        return
    weights = search_weights(run, name)
    if any(value is not None for row in weights.differences for value in row):
        text = "Weights of conv1x3 and conv3x1 minus those of the dilated pairs dil1x2 and dil2x1, by layer (Fig. 5)."
        yield FolderPicture(f"Branch weights of the search: {name}", text, draw_arch_weights([weights]))


def _of_training(folder: Path, name: str) -> Iterator[FolderPicture]:
    from irepdeploy.plots.feature_maps import read_features
    from irepdeploy.plots.features import draw_features
    from irepdeploy.plots.kernel_energy import read_kernels
    from irepdeploy.plots.kernels import draw_kernels

    try:
        kernels = read_kernels(folder, name)
        features = read_features({name: folder})
    except InputError as error:
        # For the user's own class, or a network that does not read images, the folder alone is not enough.
        log(f"note: {folder}: no pictures of kernels and outputs: {error.what}")
        return
    cross = [layer.cross for layer in kernels.layers.values()]
    text = f"The middle row and column contain {min(cross):.0%} to {max(cross):.0%} of the fused kernels' energy."
    yield FolderPicture(f"Fused kernels: {name}", text, draw_kernels(kernels))
    text = "Mean absolute output over channels, layer by layer, of the fixed operations and with their branches."
    # Show a single image to keep the page small.
    shown = [replace(each, images=each.images[:1], fixed=each.fixed[:1], fused=each.fused[:1]) for each in features]
    yield FolderPicture(f"Outputs: {name}", text, draw_features(shown))
