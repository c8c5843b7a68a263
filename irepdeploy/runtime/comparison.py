"""Compare the outputs of two models; see `irepdeploy.board.comparison`."""

from __future__ import annotations

from irepdeploy.board.comparison import (
    TOLERANCES,
    Comparison,
    Noise,
    OutputComparison,
    Tolerance,
    compare_outputs,
    relative_error,
)

__all__ = ["TOLERANCES", "Comparison", "Noise", "OutputComparison", "Tolerance", "compare_outputs", "relative_error"]
