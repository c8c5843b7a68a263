"""Values for inputs: seeded, standard normal or whole numbers within their limits, never zeros alone."""

from __future__ import annotations

import math
import shlex
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import ModelError
from irepdeploy.limits import check_memory

__all__ = ["check_finite", "limits_of", "random_feeds", "random_values"]

Limits = Tuple[int, int]


def limits_of(dtype: str, limits: Optional[Limits] = None) -> Limits:
    """Return the smallest and the largest whole number to draw: `limits`, else all of a byte, else 0 and 1."""
    return limits or ((0, 255) if dtype == "uint8" else (0, 1))


def random_values(
    generator: np.random.Generator, shape: Sequence[int], dtype: str, limits: Optional[Limits] = None
) -> np.ndarray:
    """Draw standard normal floats, or whole numbers within `limits_of`, both included."""
    if np.issubdtype(np.dtype(dtype), np.floating):
        return generator.standard_normal(tuple(shape), dtype=np.float32).astype(dtype, copy=False)
    least, most = limits_of(dtype, limits)
    return generator.integers(least, most, tuple(shape), endpoint=True).astype(dtype)


# Bytes: whole numbers drawn as int64, then in the type of the input here, on the way to another process and there.
_COPIES = 8 + 4 + 4 + 4


def random_feeds(
    inputs: Sequence[TensorSpec],
    seed: int,
    where: str,
    *,
    batch: int = 1,
    shapes: Optional[Mapping[str, Sequence[int]]] = None,
    limits: Optional[Mapping[str, Limits]] = None,
) -> Dict[str, np.ndarray]:
    """Draw values for every input, equal for all networks that take the same shapes in the same order."""
    rng = np.random.default_rng(seed)
    found = {spec.name: _shape(spec, where, batch, shapes or {}) for spec in inputs}
    check_memory(_COPIES * sum(map(math.prod, found.values())), "an input of this size and its copies", where)
    return {
        spec.name: random_values(rng, found[spec.name], spec.dtype, (limits or {}).get(spec.name)) for spec in inputs
    }


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
    if spec.name in shapes:
        return tuple(shapes[spec.name])
    if None in spec.shape[1:]:
        raise ModelError(
            f"input {spec.name!r} has dynamic dimensions: {shape_text(spec.shape)}",
            where=where,
            hint="fix them: python -m onnxruntime.tools.make_dynamic_shape_fixed "
            f"--input_name {shlex.quote(spec.name)} --input_shape 1,3,32,32 IN.onnx OUT.onnx",
        )
    return tuple(batch if size is None else size for size in spec.shape)
