"""Samples: inputs with the batch first, for networks with the batch on the first axis, another axis or no axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, ModelError, counted
from irepdeploy.limits import check_memory
from irepdeploy.runtime.given_inputs import batch_axis
from irepdeploy.verify.signature import Signature

__all__ = [
    "COPIES", "Inputs", "Outputs", "Samples", "batch_size", "batches", "fed", "joined", "mapped", "named", "one_batch",
    "samples_in",
]  # fmt: skip

Array = np.ndarray[Any, Any]
# Number of copies of inputs and outputs that a comparison holds in memory.
COPIES = 4
# Array (N, ...) for a model of one input, else one such array by name, in the order of ``forward``.
Inputs = Array | Mapping[str, Array]


class Samples(Mapping[str, Array]):
    """Arrays (N, ...) of N samples by name, with the batch first regardless of its axis in the network.

    Plain arrays and mappings are used instead if the batch is the first axis of every input and output.

    Args:
        arrays: The samples of each input.
        signature: The axis of the batch in each input and output of the network.
    """

    def __init__(self, arrays: Mapping[str, Array], signature: Signature) -> None:
        self._arrays, self.signature = dict(arrays), signature

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def samples_in(inputs: Inputs) -> int:
    """Return the number of samples."""
    if isinstance(inputs, Mapping):
        return min((len(array) for array in inputs.values()), default=0)
    return len(inputs)


def mapped(inputs: Inputs, function: Callable[[Array], Array]) -> Any:
    """Apply `function` to the array, or to each array of a mapping."""
    if not isinstance(inputs, Mapping):
        return function(inputs)
    found = {name: function(array) for name, array in inputs.items()}
    return Samples(found, inputs.signature) if isinstance(inputs, Samples) else found


def joined(groups: Sequence[Inputs]) -> Inputs:
    """Concatenate the inputs of all groups along the batch."""
    first = groups[0]
    if not isinstance(first, Mapping):
        return np.concatenate([np.asarray(group) for group in groups])
    each: Any = groups
    found = {name: np.concatenate([group[name] for group in each]) for name in first}
    return Samples(found, first.signature) if isinstance(first, Samples) else found


def named(inputs: Inputs, specs: Sequence[TensorSpec]) -> Mapping[str, Array]:
    """Assign arrays to the inputs of a model, by name if the names match and by position otherwise.

    Raises:
        InputError: There are too few or too many arrays.
    """
    arrays = dict(inputs) if isinstance(inputs, Mapping) else {specs[0].name: inputs}
    if len(arrays) != len(specs):
        due = ", ".join(spec.name for spec in specs)
        raise InputError(f"expected {counted(len(specs), 'input')} ({due}), got {len(arrays)}", where="inputs")
    own = {spec.name: spec.name for spec in specs}
    if set(arrays) != set(own):
        own = dict(zip(own, arrays, strict=True))
    found = {name: arrays[known] for name, known in own.items()}
    if not isinstance(inputs, Samples):
        return found
    return Samples(found, inputs.signature.with_names({known: name for name, known in own.items()}))


def batch_size(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> int | None:
    """Return the batch size that a model or the inputs fix, or None for any size.

    Raises:
        InputError: The inputs of the model have different batch sizes.
    """
    axes = _axes(inputs)
    found = set[int]()
    for spec in specs:
        axis = axes.get(spec.name, 0)
        size = spec.shape[axis] if axis is not None and len(spec.shape) > axis else None
        found.update([] if size is None else [size])
    if len(found) > 1:
        raise InputError(
            f"expected one batch size, got {' and '.join(map(str, sorted(found)))}", where="inputs of the model"
        )
    return next(iter(found), inputs.signature.size if isinstance(inputs, Samples) else None)


def fed(inputs: Mapping[str, Array], start: int, size: int) -> dict[str, Array]:
    """Return the feeds of one batch, with the batch on the axis that the network expects.

    Args:
        inputs: All samples.
        start: Index of the first sample.
        size: Size of the batch; the last sample is repeated if there are too few.

    Raises:
        InputError: An input has no batch, and its values differ between samples.
    """
    axes, total = _axes(inputs), samples_in(inputs)
    places = np.minimum(np.arange(start, start + size), total - 1)
    feeds = {}
    for name, array in inputs.items():
        axis, part = axes.get(name, 0), array[start : start + size]
        if axis is None:
            if any(not np.array_equal(part[0], other) for other in part[1:]):
                raise InputError(
                    f"{name} has no batch, and its values differ within a batch of {size}",
                    where="inputs",
                    hint="give the same for every sample",
                )
            # A single number must be converted back to an array.
            feeds[name] = np.asarray(part[0])
        else:
            part = part if len(part) == size else array[places]
            feeds[name] = part if axis == 0 else np.ascontiguousarray(np.moveaxis(part, 0, axis))
    return feeds


def batches(
    inputs: Mapping[str, Array], specs: Sequence[TensorSpec], usual: int
) -> Iterator[tuple[dict[str, Array], int, int]]:
    """Yield the feeds of each batch, its size, and how many of its samples are not repeated.

    The batch size is `usual` unless the model fixes it; only a free size may be smaller in the last batch.

    Raises:
        RunError: A batch, with the copies that a comparison makes, does not fit into memory.
    """
    fixed, total = batch_size(specs, inputs), samples_in(inputs)
    size = fixed or usual
    for name, array in inputs.items():
        check_memory(COPIES * size * array[:1].nbytes, f"{size:,} of the input {name}", "inputs")
    for start in range(0, total, size):
        count = min(size, total - start)
        yield fed(inputs, start, fixed or count), fixed or count, count


def one_batch(inputs: Inputs) -> list[Array]:
    """Return all samples as one batch, or as many as the network accepts, in the order of ``forward``."""
    arrays = inputs if isinstance(inputs, Mapping) else {"": inputs}
    size = inputs.signature.size if isinstance(inputs, Samples) else None
    return list(fed(arrays, 0, size or samples_in(inputs)).values())


class Outputs:
    """Outputs of many batches, collected as (N, ...) by name.

    An output without a batch is stacked, one value for each run. If its sizes differ between runs, an output is
    flattened into one row.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._axes = dict(inputs.signature.outputs) if isinstance(inputs, Samples) else {}
        self._fixed = isinstance(inputs, Samples) and inputs.signature.size is not None
        self._parts: dict[str, list[Array]] = {}
        self._found: dict[str, int | None] = {}

    def add(self, outputs: Mapping[str, Array], size: int, count: int) -> None:
        """Add the outputs of a batch of `size`, of which the first `count` samples are wanted."""
        if not self._parts:
            by_place = list(self._axes.values()) if len(self._axes) == len(outputs) else []
            for place, (name, array) in enumerate(outputs.items()):
                if set(self._axes) >= set(outputs):
                    self._found[name] = self._axes[name]
                else:
                    self._found[name] = by_place[place] if by_place else batch_axis(np.shape(array), size)
                axis = self._found[name]
                if self._fixed and axis is not None and np.shape(array)[axis : axis + 1] != (size,):
                    # The output may lack the batch that the file declares.
                    self._found[name] = None
        for name, array in outputs.items():
            axis = self._found[name]
            if axis is None:
                part = np.asarray(array)
            elif array.ndim <= axis or array.shape[axis] != size:
                raise ModelError(f"shape {array.shape} of a batch of {size}", where=f"output {name!r}")
            else:
                part = np.moveaxis(array, axis, 0)[:count]
            self._parts.setdefault(name, []).append(part)

    def all(self) -> dict[str, Array]:
        """Return all outputs that were added."""
        return {name: self._joined(name, parts) for name, parts in self._parts.items()}

    def _joined(self, name: str, parts: Sequence[Array]) -> Array:
        alike = len({part.shape[0 if self._found[name] is None else 1 :] for part in parts}) == 1
        if not alike:
            return np.concatenate([part.reshape(-1) for part in parts])
        return np.stack(parts) if self._found[name] is None else np.concatenate(parts)


def _axes(inputs: Mapping[str, Array]) -> dict[str, int | None]:
    return {spec.name: spec.axis for spec in inputs.signature.inputs} if isinstance(inputs, Samples) else {}
