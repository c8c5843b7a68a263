"""Comparison of the learned weights of asymmetric convolutions with those of the parallel dilated pairs (Fig. 5)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from irepdeploy.errors import CheckpointError, InputError
from irepdeploy.plots.figure import GREY, draw_matrix, new_figure, picture, row_height, shown, shown_rows
from irepdeploy.plots.search_history import SearchRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

__all__ = ["PAIRS", "ArchWeights", "draw_arch_weights", "network_weights", "read_arch_weights", "search_weights"]

# The first of each pair covers the taps of the second, a dilated pair, and the tap between them.
PAIRS = (("conv1x3", "dil1x2"), ("conv3x1", "dil2x1"))

_CELL = 0.3


@dataclass(frozen=True)
class ArchWeights:
    """The branch weights sigmoid(beta) * sigmoid(alpha) by layer and branch; `note` gives their origin if needed."""

    label: str
    layers: tuple[str, ...]
    weights: tuple[Mapping[str, float], ...]
    note: str = ""

    @property
    def differences(self) -> list[list[float | None]]:
        """Weight of the first minus that of the second of each pair, layers x `PAIRS`; None if either is missing."""
        return [
            [row[first] - row[second] if first in row and second in row else None for first, second in PAIRS]
            for row in self.weights
        ]


def search_weights(run: SearchRun, label: str) -> ArchWeights:
    """Return the branch weights of the supernet at the last evolution in the journal of a search.

    Raises:
        InputError: The journal does not contain alpha and beta.
    """
    alpha, beta = run.alpha(), run.beta()
    if alpha is None or beta is None:
        raise InputError("the journal does not contain alpha and beta", where=label, hint="run the search again")
    rows: list[dict[str, float]] = [{} for _ in run.layers]
    for row, column in run.positions:
        rows[row][run.branches[column]] = float(alpha[-1, row, column] * beta[-1, row])
    note = "" if run.finished else f"not finished: evolution {len(run.evolutions)}"
    return ArchWeights(label, run.layers, tuple(rows), note)


def network_weights(model: nn.Module, label: str) -> ArchWeights:
    """Return the weights of the active branches of a network in train state.

    Raises:
        InputError: The network is fused, or has no branches with alpha and beta.
    """
    from irepdeploy.reparam.block import RepBlock
    from irepdeploy.reparam.origin import FUSED, origin_of

    if origin_of(model).state == FUSED:
        raise CheckpointError(
            "a fused network: alpha and beta are in its kernels",
            where=label,
            hint="name the checkpoint it was fused from",
        )
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, RepBlock)}
    if not any(block.scaled for block in blocks.values()):
        raise CheckpointError(
            "no branches with alpha and beta", where=label, hint="the preset ireps has them, repvgg does not"
        )
    rows = tuple(
        {name: float(factor.detach()) for name in block.active if (factor := block.factor(name)) is not None}
        for block in blocks.values()
    )
    return ArchWeights(label, tuple(blocks), rows)


def read_arch_weights(
    source: str | os.PathLike[str], label: str, *, model_factory: Callable[[], nn.Module] | None = None
) -> ArchWeights:
    """Return the branch weights of a search folder, a training folder, a checkpoint, or a network by name."""
    from irepdeploy.network.source import open_source
    from irepdeploy.plots.feature_maps import checkpoint_in

    checkpoint = checkpoint_in(source)
    if Path(checkpoint).is_dir():
        return search_weights(SearchRun.read(checkpoint), label)
    return network_weights(open_source(checkpoint, model_factory).model, label)


@picture
def draw_arch_weights(found: Sequence[ArchWeights]) -> Figure:
    """Draw layers x `PAIRS` as heat maps on a common scale, orange where the asymmetric convolution weighs more."""
    import numpy as np

    tables = [np.array(each.differences, dtype=float).reshape(-1, len(PAIRS)) for each in found]
    if not tables or all(np.isnan(table).all() for table in tables):
        raise InputError(
            "no layer has both a conv1x3 and a dil1x2, or both a conv3x1 and a dil2x1",
            where=found[0].label if found else None,
            hint="pass a search folder, which contains those of the supernet with all branches",
        )
    limit = max(float(np.nanmax(np.abs(table), initial=0)) for table in tables)
    rows = max(len(table) for table in tables)
    height = row_height(rows, _CELL)
    widths = [1.9 + 0.08 * max(min(len(name), 48) for name in each.layers) for each in found]
    figure = new_figure(sum(widths) + 0.9, 1.5 + height * rows)
    panels = figure.subplots(1, len(found), squeeze=False, width_ratios=widths)[0]
    scale = limit or 1e-3
    for axes, each, table in zip(panels, found, tables, strict=True):
        padded = np.vstack([table, np.full((rows - len(table), len(PAIRS)), np.nan)])
        form = "+.4f" if height > 0.1 else None
        image = draw_matrix(axes, table, cmap="PuOr_r", limits=(-scale, scale), form=form, size=min(7, 50 * height))
        axes.set_ylim(len(padded) - 0.5, -0.5)
        names = [f"{first}\n\N{MINUS SIGN} {second}" for first, second in PAIRS]
        axes.set_xticks(range(len(PAIRS)), names, fontsize=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        shown_rows(axes, each.layers, height)
        axes.spines[:].set_visible(False)
        axes.set_title(f"{shown(each.label, 28)}{f', {each.note}' if each.note else ''}", fontsize=10)
    bar = figure.colorbar(image, ax=list(panels), fraction=0.04, pad=0.02)
    bar.set_label("difference", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    notes = ["weight: sigmoid(beta) sigmoid(alpha)"]
    if not limit:
        notes.append("all are equal: alpha has not changed")
    if any(np.isnan(table).any() for table in tables):
        notes.append("\N{EN DASH}: one of them is missing")
    figure.supxlabel("\n".join(notes), fontsize=8, color=GREY)
    return figure
