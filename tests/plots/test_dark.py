"""Pictures for dark pages: every colour keeps its meaning and is legible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from irepdeploy.plots.dark import on_dark
from irepdeploy.plots.figure import BLUE, GREY, PALETTE, SEQUENTIAL, draw_matrix, new_figure, save_figure

PAPER = np.array([0x14, 0x17, 0x1B]) / 255


def contrast(colour: object) -> float:
    def luminance(channels: np.ndarray) -> float:  # type: ignore[type-arg]
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    return (luminance(np.array(to_rgba(colour))[:3]) + 0.05) / (luminance(PAPER) + 0.05)  # type: ignore[arg-type]


@pytest.mark.parametrize("colour", [*PALETTE, "black", GREY, "#555555", "#440154"])
def test_what_is_written_in_it_can_be_read(colour: str) -> None:
    assert contrast(on_dark(colour)) >= 4.5


def test_white_is_paper_and_nothing_stays_nothing() -> None:
    assert on_dark("white") == pytest.approx((*PAPER, 1))
    assert (on_dark("none"), on_dark((1.0, 1.0, 1.0, 0.0))[3]) == ("none", 0)
    # A colour that is already legible is kept, and so is its transparency.
    assert on_dark((0.9, 0.6, 0.0, 0.3)) == pytest.approx((0.9, 0.6, 0.0, 0.3))
    hues = [np.argsort(to_rgba(each)[:3])[-1] for each in (BLUE, on_dark(BLUE))]
    assert hues[0] == hues[1]


def test_a_whole_picture_is_dark(tmp_path: Path) -> None:
    pixels = {}
    for dark in (False, True):
        figure = new_figure(3, 2)
        left, right = figure.subplots(1, 2)
        draw_matrix(left, [[0.0, 1.0]], cmap=SEQUENTIAL, limits=(0, 1), form=".0%")
        right.plot([0, 1], [0, 1], "-o", color="black", markerfacecolor="white", label="a")
        right.scatter([0.5], [0.2], color="white")
        right.legend()
        path = save_figure(figure, tmp_path / f"{dark}.png", dark=dark)
        pixels[dark] = np.asarray(Image.open(path).convert("RGB"), dtype=float) / 255
        corners = [text.get_color() for text in left.texts]
        assert (contrast(corners[0]) > contrast(corners[1])) is dark
    white, black = pixels[False], pixels[True]
    assert white.mean() > 0.7 and black.mean() < 0.35
    # Nothing white is left of it: the lightest is ink.
    assert white.min(2).max() == 1 and black.min(2).max() < 0.96
    assert (np.abs(black - PAPER).max(2) < 0.01).mean() > 0.4
