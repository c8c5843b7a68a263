"""Matrices of Architectures: layers by branches, with the kept ones and their share in a population."""

from __future__ import annotations

from collections.abc import Mapping

from irepdeploy.reparam.architecture import Architecture

from ..templates import Markup, macro
from .frame import TEMPLATE, Frame, short

__all__ = ["matrix"]

_CELL = 20
_LETTER = 8.2
_LONGEST = 24


def matrix(
    architecture: Architecture,
    title: str,
    possible: frozenset[tuple[int, int]] | None = None,
    shares: Mapping[tuple[int, int], float] | None = None,
) -> Markup:
    """Draw an Architecture; a filled cell is a kept branch.

    Args:
        architecture: The branches that are kept.
        title: Alternative text.
        possible: (layer, branch) indices of possible branches. None: all.
        shares: Share of the last population that keeps a branch, by (layer, branch).
    """
    layers = [short(name, _LONGEST) for name in architecture.layers]
    branches = [short(name, 16) for name in architecture.branches]
    left = round(12 + _LETTER * max(map(len, layers), default=0))
    top = round(10 + 0.72 * _LETTER * max(map(len, branches), default=0))
    right = left + _CELL * len(branches)
    bottom = top + _CELL * len(layers)
    # The slanted name of the last branch extends beyond the edge.
    lean = round(0.72 * _LETTER * len(branches[-1])) if branches else 0
    frame = Frame(height=bottom + 8, left=left, right=right, top=top, bottom=bottom, width=right + lean + 8)
    cells = []
    for row, bits in enumerate(architecture.matrix):
        for column, bit in enumerate(bits):
            allowed = possible is None or (row, column) in possible
            share = (shares or {}).get((row, column))
            said = "kept" if bit else "left out" if allowed else "not possible here"
            cells.append(
                {
                    "x": left + _CELL * column,
                    "y": top + _CELL * row,
                    "look": "kept" if bit else "" if allowed else "none",
                    "share": None if share is None or bit else round(share, 2),
                    "tip": f"{architecture.layers[row]}\n{architecture.branches[column]}: {said}"
                    + ("" if share is None or not allowed else f"\n{share:.0%} of the last population"),
                }
            )
    return macro(TEMPLATE, "matrix")(title, frame, layers, branches, cells, _CELL)
