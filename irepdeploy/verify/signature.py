"""Signature: the inputs of a network, and the axis of the batch in each input and output.

The axis follows from the names of free sizes, or from the sizes of the outputs at two batch sizes. A network whose
sizes are all fixed, or that has an input or output without a batch, runs only at its own sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.console import quoted
from irepdeploy.errors import InputError, ModelError
from irepdeploy.runtime.given_inputs import batch_axis
from irepdeploy.verify.declared import Declared, Dimension, is_fixed, numbers
from irepdeploy.verify.input_spec import InputSpec

__all__ = ["Signature", "resolved", "settled", "trial"]

Feeds = dict[str, np.ndarray[Any, Any]]
# Returns arrays or tensors, of which only the shapes are read.
Run = Callable[[Feeds], Mapping[str, Any]]


@dataclass(frozen=True)
class Signature:
    """The inputs of a network and the axis of its batch.

    Attributes:
        inputs: All inputs, in the order of the network.
        outputs: Axis of the batch in each output, or None for an output without a batch. For outputs that are not
            listed, the axis is inferred from the sizes.
        size: The only batch size at which to run, or None for any.
    """

    inputs: tuple[InputSpec, ...]
    outputs: Mapping[str, int | None] = field(default_factory=dict)
    size: int | None = None

    @classmethod
    def of(
        cls,
        specs: Sequence[TensorSpec],
        limits: Mapping[str, tuple[int, int]] | None = None,
        outputs: Mapping[str, int | None] | None = None,
    ) -> Signature:
        """Return the signature of inputs in which at most the batch is free, marked by None."""
        return cls(tuple(InputSpec.of(spec, limits) for spec in specs), outputs or {})._bound()

    @property
    def is_plain(self) -> bool:
        """Whether the batch is the first axis of every input and output, and may have any size."""
        axes = (*(spec.axis for spec in self.inputs), *self.outputs.values())
        return self.size is None and all(axis == 0 for axis in axes)

    @property
    def input_axes(self) -> dict[str, int | None]:
        """Axis of the batch in each input."""
        return {spec.name: spec.axis for spec in self.inputs}

    @property
    def axes(self) -> dict[str, int | None]:
        """Axis of the batch in each input and output, as far as it is known."""
        return {**self.outputs, **self.input_axes}

    @property
    def has_whole_numbers(self) -> bool:
        """Whether an input takes integers, whose limits the network may reveal."""
        return any(not spec.is_float for spec in self.inputs)

    def with_axes(self, outputs: Mapping[str, int | None]) -> Signature:
        """Return a copy with other axes of the outputs."""
        return replace(self, outputs=dict(outputs))._bound()

    def with_limits(self, limits: Mapping[str, tuple[int, int]]) -> Signature:
        """Return a copy whose inputs have these limits on their values."""
        found = tuple(replace(spec, limits=limits.get(spec.name, spec.limits)) for spec in self.inputs)
        return replace(self, inputs=found)

    def with_names(self, names: Mapping[str, str]) -> Signature:
        """Return a copy with other names of the inputs."""
        return replace(self, inputs=tuple(replace(spec, name=names[spec.name]) for spec in self.inputs))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object for certificates with the axis of the batch in each input and output."""
        return {"inputs": self.input_axes, "outputs": dict(self.outputs), "batch": self.size}

    def _bound(self) -> Signature:
        """Set the batch size to 1 if an input or output has no batch, so that each value belongs to one sample."""
        axes = (*(spec.axis for spec in self.inputs), *self.outputs.values())
        return replace(self, size=1) if self.size is None and None in axes else self


def resolved(
    models: Sequence[Declared],
    asked: Sequence[TensorSpec] = (),
    given: Callable[[], Mapping[str, Sequence[int]]] | None = None,
    limits: Mapping[str, tuple[int, int]] | None = None,
) -> Signature:
    """Return the common signature of models, with the names of the first model.

    Outputs whose batch axis the models do not declare are missing in the result; `settled` finds them.

    Args:
        models: The declarations of the models.
        asked: Sizes to use where no model fixes them.
        given: Function that returns the shapes of given arrays by name, for sizes that are not in `asked`.
        limits: Smallest and largest integer of inputs by name.

    Raises:
        InputError: The models take different inputs, or a size is unknown.
    """
    first, *others = [model.named_like(models[0]) for model in models]
    whole = first.with_sizes(asked)
    first = first.with_sizes(asked, but_batch=True)
    # A model with free sizes reveals more than one whose sizes are all fixed.
    shown = sorted((first, *others), key=lambda model: not model.is_free)
    axes = shown[0].axes
    if given is None:
        _check_sizes((first, *others), axes)
    specs, batches = [], set[int]()
    for name in first.inputs:
        axis = axes[name]
        sizes = _merged(name, [first, *others], axis)
        if axis is not None:
            batches.update(size for size in (model.inputs[name][axis] for model in (first, *others)) if is_fixed(size))
            sizes[axis] = None
        specs.append(_sized(name, sizes, axis, (first, *others), given or dict))
    outputs: dict[str, int | None] = {}
    for model in reversed(shown):
        outputs.update(_output_axes(model, axes))
    found = Signature(
        tuple(InputSpec.of(spec, limits) for spec in specs),
        {name: outputs[name] for name in first.outputs if name in outputs},
    )
    if any(axis is None for axis in (*axes.values(), *found.outputs.values())):
        if len(batches) > 1:
            raise InputError(
                f"expected one batch size, got {' and '.join(map(str, sorted(batches)))}: not every input and output "
                "has a batch",
                where=first.label,
            )
        found = replace(found, size=next(iter(batches), 1))
    chosen = None if first.batch(axes) else whole.batch(axes)
    return found if chosen is None else replace(found, size=chosen)


def trial(found: Signature, size: int) -> Feeds:
    """Return random inputs for a batch of `size` samples."""
    feeds = {}
    for place, spec in enumerate(found.inputs):
        samples = spec.random(size, 0, place)
        feeds[spec.name] = np.asarray(samples[0]) if spec.axis is None else np.moveaxis(samples, 0, spec.axis)
    return feeds


def settled(found: Signature, outputs: Iterable[str], run: Run, alone: Mapping[str, Any] | None = None) -> Signature:
    """Find the axis of the batch in the outputs by running batches of 1 and 2.

    If the network cannot run a batch of 2, its batch size is set to 1.

    Args:
        found: The signature.
        outputs: Names of the outputs.
        run: Function that runs the network.
        alone: Outputs for a batch of 1, if they are already known.
    """
    names = list(outputs)
    if all(name in found.outputs for name in names) or all(axis is None for axis in found.input_axes.values()):
        return found
    alone = alone or run(trial(found, 1))
    try:
        both = run(trial(found, 2))
    except ModelError:
        axes = {name: batch_axis(alone[name].shape, 1) for name in names}
        return replace(found.with_axes(axes), size=found.size or 1)
    return found.with_axes({name: _grown(alone[name].shape, both[name].shape) for name in names})


def _grown(one: Sequence[int], two: Sequence[int]) -> int | None:
    if len(one) != len(two):
        return None
    places = [place for place, sizes in enumerate(zip(one, two, strict=True)) if sizes[0] != sizes[1]]
    return places[0] if len(places) == 1 and (one[places[0]], two[places[0]]) == (1, 2) else None


def _output_axes(model: Declared, axes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the batch axes that follow from names of free sizes or, in a model of fixed sizes, from the batch size."""
    batches = {model.inputs[name][axis] for name, axis in axes.items() if axis is not None}
    names = {size for size in batches if isinstance(size, str)}
    found: dict[str, int | None] = {}
    for name, sizes in model.outputs.items():
        if sizes is None:
            continue
        places = [place for place, size in enumerate(sizes) if isinstance(size, str) and size in names]
        if len(places) == 1:
            found[name] = places[0]
        elif not model.is_free and len(batches) <= 1:
            (batch,) = batches or {None}
            if all(map(is_fixed, sizes)):
                found[name] = None if batch is None else batch_axis(sizes, int(batch or 0))
    return found


def _merged(name: str, models: Sequence[Declared], axis: int | None) -> list[Dimension]:
    """Return the sizes of an input that any model fixes; only the batch may differ between models."""
    shapes = [model.inputs[name] for model in models]
    kinds = {model.dtypes[name] for model in models}
    floats = all(kind.startswith("float") for kind in kinds)
    fits = len({len(sizes) for sizes in shapes}) == 1 and (floats or len(kinds) == 1)
    merged: list[Dimension] = []
    for place, sizes in enumerate(zip(*shapes, strict=True) if fits else ()):
        known = {size for size in sizes if is_fixed(size)}
        fits = fits and (len(known) <= 1 or place == axis)
        merged.append(next(iter(known), None))
    if not fits:
        texts = [
            f"{'' if floats else f'{model.dtypes[name]} '}{shape_text(numbers(model.inputs[name]))}" for model in models
        ]
        raise InputError(
            f"the models take different inputs: {' and '.join(texts)}",
            hint="compare forms of one network; --input-shape replaces the sizes that a checkpoint stores",
        )
    return merged


def _check_sizes(models: Sequence[Declared], axes: Mapping[str, int | None]) -> None:
    """Raise InputError that names all inputs with a size, other than the batch, that no model fixes."""
    first, free = models[0], dict[str, tuple[int | None, ...]]()
    for name in first.inputs:
        shape = numbers(tuple(_merged(name, models, axes[name])))
        if None in (size for place, size in enumerate(shape) if place != axes[name]):
            free[name] = shape
    if free:
        texts = [f"{name!r} has dynamic dimensions: {shape_text(shape)}" for name, shape in free.items()]
        options = [f"--input-shape {quoted(_example(name, shape, axes[name]))}" for name, shape in free.items()]
        file = "FILE.npy" if len(first.inputs) == 1 else "FILE.npz"
        raise InputError(
            f"input {', '.join(texts)}", where=first.label, hint=f"give {' '.join(options)}, or --inputs {file}"
        )


def _sized(
    name: str,
    sizes: Sequence[Dimension],
    axis: int | None,
    models: Sequence[Declared],
    given: Callable[[], Mapping[str, Sequence[int]]],
) -> TensorSpec:
    """Return an input, with the sizes of a given array where no model fixes them."""
    kinds = [model.dtypes[name] for model in models]
    # Several models are fed float32, regardless of the floats that they take.
    dtype = "float32" if len(kinds) > 1 and kinds[0].startswith("float") else kinds[0]
    shape = numbers(tuple(sizes))
    if all(size is not None or place == axis for place, size in enumerate(shape)):
        return TensorSpec(name, shape, dtype)
    shapes = given()
    alone = len(shapes) == len(models[0].inputs) == 1
    found = next(iter(shapes.values())) if alone else shapes.get(name, ())
    whole = _whole(shape, axis, found)
    if whole is None:
        raise InputError(f"expected inputs {TensorSpec(name, shape, dtype)}, got shape {tuple(found)}", where="inputs")
    return TensorSpec(name, whole, dtype)


def _whole(shape: tuple[int | None, ...], axis: int | None, given: Sequence[int]) -> tuple[int | None, ...] | None:
    """Return the sizes of an array of one batch, one sample, or several of either, or None if it does not fit."""
    sample = [size for place, size in enumerate(shape) if place != axis]
    batches = [given, given[1:]] if axis is not None else []
    ways = [[size for place, size in enumerate(each) if place != axis] for each in batches]
    for way in (*ways[:1], list(given), list(given[1:]), *ways[1:]):
        if len(way) == len(sample) and all(due in (None, size) for due, size in zip(sample, way, strict=True)):
            if axis is not None:
                way.insert(axis, None)  # type: ignore[arg-type]
            return tuple(way)
    return None


def _example(name: str, shape: Sequence[int | None], axis: int | None) -> str:
    usual = 224 if len(shape) == 4 else 64
    sizes = (1 if place == axis else size or usual for place, size in enumerate(shape))
    return f"{name}:{'x'.join(map(str, sizes))}"
