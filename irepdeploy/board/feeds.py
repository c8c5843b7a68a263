"""Inputs for latency measurements: seeded standard normal values, never zeros."""

from __future__ import annotations

import math
import shlex
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import ModelError
from irepdeploy.limits import check_memory

__all__ = ["check_finite", "random_feeds"]

# Bytes: drawn as float64, then in the type of the input here, on the way to another process and there.
_COPIES = 8 + 4 + 4 + 4


def random_feeds(
    inputs: Sequence[TensorSpec],
    seed: int,
    where: str,
    *,
    batch: int = 1,
    shapes: Optional[Mapping[str, Sequence[int]]] = None,
) -> Dict[str, np.ndarray]:
    """Draw values for every input, equal for all networks that take the same shapes in the same order."""
    rng = np.random.default_rng(seed)
    found = {spec.name: _shape(spec, where, batch, shapes or {}) for spec in inputs}
    check_memory(_COPIES * sum(map(math.prod, found.values())), "an input of this size and its copies", where)
    return {spec.name: rng.standard_normal(found[spec.name]).astype(spec.dtype) for spec in inputs}


def check_finite(outputs: Mapping[str, np.ndarray], where: str) -> None:
    """Check that all outputs are finite."""
    for name, values in outputs.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            kind = "NaN" if np.isnan(values).any() else "infinity"
            raise ModelError(
                f"returns {kind} (output {name!r})",
                where=where,
                hint="the latency of a broken model is meaningless: fix its weights first",
            )


def _shape(spec: TensorSpec, where: str, batch: int, shapes: Mapping[str, Sequence[int]]) -> Tuple[int, ...]:
    if not np.issubdtype(np.dtype(spec.dtype), np.floating):
        raise ModelError(
            f"input {spec.name!r}: expected a floating-point type for random values, got {spec.dtype}", where=where
        )
    if spec.name in shapes:
        return tuple(shapes[spec.name])
    first, rest = (spec.shape[0], spec.shape[1:]) if spec.shape else (None, (None,))
    if None in rest:
        raise ModelError(
            f"input {spec.name!r} has dynamic dimensions: {shape_text(spec.shape)}",
            where=where,
            hint="fix them: python -m onnxruntime.tools.make_dynamic_shape_fixed "
            f"--input_name {shlex.quote(spec.name)} --input_shape 1,3,32,32 IN.onnx OUT.onnx",
        )
    return (batch if first is None else first, *(size for size in rest if size is not None))
