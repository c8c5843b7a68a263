"""Seeded random inputs: standard normal floats, or integers within their limits."""

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
    """Return the smallest and largest integer to draw: `limits` if given, 0 and 255 for uint8, otherwise 0 and 1."""
    return limits or ((0, 255) if dtype == "uint8" else (0, 1))


def random_values(
    generator: np.random.Generator, shape: Sequence[int], dtype: str, limits: Optional[Limits] = None
) -> np.ndarray:
    """Draw standard normal floats, or integers between the two `limits_of` the dtype, inclusive."""
    if np.issubdtype(np.dtype(dtype), np.floating):
        return generator.standard_normal(tuple(shape), dtype=np.float32).astype(dtype, copy=False)
    least, most = limits_of(dtype, limits)
    return generator.integers(least, most, tuple(shape), endpoint=True).astype(dtype)


# Bytes per element: integers are drawn as int64, then held in the input's type here, in transit and in another process.
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
    """Draw values for every input; they are equal for all networks with the same input shapes in the same order.

    Args:
        inputs: Inputs of the network.
        seed: Seed of the random values.
        where: Name of the model, for error messages.
        batch: Batch size, where the model leaves it dynamic.
        shapes: Shapes by input name, for inputs with other dynamic dimensions.
        limits: Smallest and largest integer by input name; see `limits_of`.

    Raises:
        ModelError: An input has dynamic dimensions and no shape is given.
        RunError: The inputs would not fit into memory.
    """
    rng = np.random.default_rng(seed)
    found = {spec.name: _shape(spec, where, batch, shapes or {}) for spec in inputs}
    check_memory(_COPIES * sum(map(math.prod, found.values())), "an input of this size and its copies", where)
    return {
        spec.name: random_values(rng, found[spec.name], spec.dtype, (limits or {}).get(spec.name)) for spec in inputs
    }


def check_finite(outputs: Mapping[str, np.ndarray], where: str) -> None:
    """Raise ModelError if an output contains NaN or infinity."""
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
