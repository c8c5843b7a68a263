"""What a network is fed when its latency is measured: seeded standard normal values, never zeros.

This module is Python 3.8, stdlib and numpy only: the board's agent carries it.
"""

from __future__ import annotations

from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import ModelError

__all__ = ["check_finite", "random_feeds"]


def random_feeds(
    inputs: Sequence[TensorSpec],
    seed: int,
    where: str,
    *,
    batch: int = 1,
    shapes: Optional[Mapping[str, Sequence[int]]] = None,
) -> Dict[str, np.ndarray]:
    """Values for every input, the same for all networks that take the same shapes in the same order.

    Args:
        where: the network, for messages.
        batch: where it is free.
        shapes: of inputs whose other dimensions are free too.

    Raises:
        ModelError: an input that is no floating-point tensor, or whose shape is not known.
    """
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(_shape(spec, where, batch, shapes or {})).astype(spec.dtype) for spec in inputs
    }


def check_finite(outputs: Mapping[str, np.ndarray], where: str) -> None:
    """Refuse a network whose outputs are not finite.

    Raises:
        ModelError: one is not.
    """
    for name, values in outputs.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "infinity"
            raise ModelError(
                f"returns {kind} (output {name!r})",
                where=where,
                hint="the latency of a broken model means nothing: mend its weights first",
            )


def _shape(spec: TensorSpec, where: str, batch: int, shapes: Mapping[str, Sequence[int]]) -> Tuple[int, ...]:
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        raise ModelError(f"input {spec.name!r} is {spec.dtype}; only floating-point inputs can be made up", where=where)
    if spec.name in shapes:
        return tuple(shapes[spec.name])
    first, rest = (spec.shape[0], spec.shape[1:]) if spec.shape else (None, (None,))
    if None in rest:
        raise ModelError(
            f"input {spec.name!r} has free dimensions: {shape_text(spec.shape)}",
            where=where,
            hint="fix them: python -m onnxruntime.tools.make_dynamic_shape_fixed "
            f"--input_name {spec.name} --input_shape 1,3,32,32 IN.onnx OUT.onnx",
        )
    return (batch if first is None else first, *(size for size in rest if size is not None))
