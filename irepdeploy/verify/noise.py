"""Noise of a model: how much its outputs change if only the rounding changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from irepdeploy.board.comparison import Noise, cosine, relative_error
from irepdeploy.board.detections import are_detections, are_proposals, matched, matched_proposals
from irepdeploy.board.runner import TensorSpec
from irepdeploy.verify.samples import Inputs, Samples, named

__all__ = ["noise_between", "nudged"]

Array = np.ndarray[Any, Any]


def nudged(inputs: Inputs, specs: Sequence[TensorSpec]) -> Inputs | None:
    """Return inputs with every float one unit in the last place larger or smaller, or None if there are no floats."""
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {}
    moved = False
    arrays = named(inputs, specs)
    for spec in specs:
        array = arrays[spec.name]
        if spec.dtype.startswith("float"):
            exact = array.astype(spec.dtype, copy=False)
            ways = np.where(rng.random(array.shape, np.float32) < 0.5, -np.inf, np.inf).astype(exact.dtype)
            array, moved = np.nextafter(exact, ways), True
        found[spec.name] = array
    if not moved:
        return None
    return Samples(found, arrays.signature) if isinstance(arrays, Samples) else found


def noise_between(outputs: Mapping[str, Array], others: Mapping[str, Mapping[str, Array]]) -> dict[str, Noise]:
    """Return the noise of each output.

    Args:
        outputs: The outputs by name.
        others: The same outputs after a change in rounding, keyed by their field of `Noise`. They may cover only the
            first samples.
    """
    if are_detections(outputs) or are_proposals(outputs):
        others = {how: _in_order(outputs, each) for how, each in others.items()}
    found = {}
    for name, output in outputs.items():
        pairs = {how: (output[: len(each[name])], each[name]) for how, each in others.items() if name in each}
        told = {how: pair for how, pair in pairs.items() if _tells(*pair)}
        if told:
            errors = {how: relative_error(*pair) for how, pair in told.items()}
            found[name] = Noise(max(errors.values()), min(cosine(*pair) for pair in told.values()), **errors)
    return found


def _in_order(outputs: Mapping[str, Array], other: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the detections or proposals of `other` in the order of those in `outputs`.

    `other` may cover only the first images.
    """
    first = {name: each[: len(other[name])] for name, each in outputs.items() if name in other}
    if are_detections(other) and are_detections(first):
        return matched(first, other)[0]
    return matched_proposals(first, other, 0.0)[0] if are_proposals(other) and are_proposals(first) else other


def _tells(output: Array, other: Array) -> bool:
    # Neither NaN nor all zeros are informative.
    return output.shape == other.shape and all(np.isfinite(each).all() and each.any() for each in (output, other))
