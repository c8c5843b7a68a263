"""Drawings of feature maps as heat maps, layer by layer (Fig. 4 and A3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.plots.figure import GREY, ORANGE, new_figure, picture, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from irepdeploy.plots.feature_maps import FeatureMaps

__all__ = ["draw_features"]

_HEAT = "inferno"
_CELL = 1.0
_MOST_ROWS = 24
_ROWS = {"fixed": "fixed operation", "fused": "with branches, fused"}


@picture
def draw_features(networks: Sequence[FeatureMaps]) -> Figure:
    """Draw a row with the outputs of the fixed operations and one with those of the fused ones, by image and network.

    A row shows the image and then the layers in order. Each map has its own scale from dark (lowest) to bright
    (highest), because only positions are compared.
    """
    if not networks or not networks[0].images:
        raise InputError("nothing to draw", hint="name a network and an image")
    names = [[image.name for image in network.images] for network in networks]
    if any(each != names[0] for each in names):
        raise InputError("the networks were run on different images", hint="pass the same images to all with --images")
    rows: list[tuple[int, FeatureMaps, str, Mapping[str, Any]]] = []
    for index in range(len(names[0])):
        for network in networks:
            if network.fixed:
                rows.append((index, network, "fixed", network.fixed[index]))
            rows.append((index, network, "fused", network.fused[index]))
    if len(rows) > _MOST_ROWS:
        raise InputError(f"{len(rows)} rows are too many for one picture", hint="give fewer images")
    columns = 1 + max(len(network.layers) for network in networks)
    figure = new_figure(1.5 + _CELL * columns, 1.1 + 1.12 * _CELL * len(rows) + 0.1)
    panels = figure.subplots(len(rows), columns, squeeze=False)
    above: tuple[str, ...] = ()
    for line, (place, (index, network, kind, maps)) in zip(panels, enumerate(rows), strict=True):
        pixels = network.images[index].pixels
        for axes in line:
            axes.set_xticks(())
            axes.set_yticks(())
            axes.spines[:].set_visible(False)
            axes.set_box_aspect(pixels.shape[0] / pixels.shape[1])
        if place == 0 or not _same(pixels, rows[place - 1]):
            line[0].imshow(pixels, interpolation="nearest", aspect="auto")
        for axes, layer in zip(line[1:], network.layers, strict=False):
            _map(axes, maps.get(layer))
            if network.layers != above:
                axes.set_title(shown(layer, 20), fontsize=6)
        above = network.layers
        what = _ROWS[kind] if network.fixed else "convolutions"
        line[0].set_ylabel(f"{shown(network.label, 18)}\n{what}", fontsize=7)
    panels[0][0].set_title("image", fontsize=7)
    said = dict.fromkeys(
        f"UNTRAINED {shown(network.label, 28)}: {network.untrained}" for network in networks if network.untrained
    )
    figure.suptitle("outputs, mean over channels of |y|, layer by layer", fontsize=9)
    if said:
        figure.supxlabel("\n".join(said), color=ORANGE, fontsize=10, fontweight="bold")
    return figure


def _same(pixels: Any, row: tuple[int, FeatureMaps, str, Mapping[str, Any]]) -> bool:
    """Return whether the row above already shows this image."""
    above = row[1].images[row[0]].pixels
    return above.shape == pixels.shape and bool((above == pixels).all())


def _map(axes: Axes, values: Any) -> None:
    if values is None:
        axes.text(0.5, 0.5, "no branches", ha="center", va="center", fontsize=6, color=GREY, transform=axes.transAxes)
        return
    low, high = float(values.min()), float(values.max())
    axes.imshow(
        values, cmap=_HEAT, vmin=low, vmax=high if high > low else low + 1, interpolation="bilinear", aspect="auto"
    )
