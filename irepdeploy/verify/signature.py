"""Signature: the inputs of a network, and the axis of the batch in each input and output.

The names of free sizes tell the axis, else the sizes of the outputs at two batch sizes. A network whose sizes are all
fixed, or that has an input or output without a batch, runs at the sizes that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np

from irepdeploy.board.runner import Runner, TensorSpec, shape_text
from irepdeploy.console import quoted
from irepdeploy.errors import InputError, ModelError
from irepdeploy.verify.input_spec import UNNAMED, InputSpec

__all__ = ["Declared", "Signature", "batch_of_output", "resolved", "settled", "trial"]

# The size of a tensor along one axis: a number, the name of a free size, or None for a free one without a name.
Dimension = int | str | None
Dimensions = tuple[Dimension, ...]
Feeds = dict[str, np.ndarray[Any, Any]]
# Returns arrays or tensors, of which the shapes are read.
Run = Callable[[Feeds], Mapping[str, Any]]

_BATCH_NAMES = {"n", "b", "bs"}
_COLOURS, _SMALLEST_IMAGE = (3, 4), 8


@dataclass(frozen=True)
class Signature:
    """The inputs of a network and where it has its batch.

    Attributes:
        outputs: Axis of the batch by output, None where there is none; outputs that are missing are told by their size.
        size: The only batch size to run at, or None for any.
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
        """Return the signature of inputs of which only the batch is free, with None where it is."""
        return cls(tuple(InputSpec.of(spec, limits) for spec in specs), outputs or {})._bound()

    @property
    def is_plain(self) -> bool:
        """Whether every input and output begins with the batch, and any batch will do."""
        axes = (*(spec.axis for spec in self.inputs), *self.outputs.values())
        return self.size is None and all(axis == 0 for axis in axes)

    @property
    def input_axes(self) -> dict[str, int | None]:
        """Axis of the batch by input."""
        return {spec.name: spec.axis for spec in self.inputs}

    @property
    def axes(self) -> dict[str, int | None]:
        """Axis of the batch by input and output, as far as it is known."""
        return {**self.outputs, **self.input_axes}

    @property
    def has_whole_numbers(self) -> bool:
        """Whether an input takes whole numbers, whose limits the network may show."""
        return any(not spec.is_float for spec in self.inputs)

    def with_axes(self, outputs: Mapping[str, int | None]) -> Signature:
        """Return a copy with other axes of the outputs."""
        return replace(self, outputs=dict(outputs))._bound()

    def with_limits(self, limits: Mapping[str, tuple[int, int]]) -> Signature:
        """Return a copy whose inputs have these limits of their values."""
        found = tuple(replace(spec, limits=limits.get(spec.name, spec.limits)) for spec in self.inputs)
        return replace(self, inputs=found)

    def with_names(self, names: Mapping[str, str]) -> Signature:
        """Return a copy with other names of the inputs."""
        return replace(self, inputs=tuple(replace(spec, name=names[spec.name]) for spec in self.inputs))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object for certificates: axis of the batch by input and output."""
        return {"inputs": self.input_axes, "outputs": dict(self.outputs), "batch": self.size}

    def _bound(self) -> Signature:
        """Run one sample at a time if something has no batch: it cannot be told which sample it belongs to."""
        axes = (*(spec.axis for spec in self.inputs), *self.outputs.values())
        return replace(self, size=1) if self.size is None and None in axes else self


@dataclass(frozen=True)
class Declared:
    """What a model says about its inputs and outputs; `outputs` that it says nothing about are None."""

    label: str
    inputs: Mapping[str, Dimensions]
    dtypes: Mapping[str, str]
    outputs: Mapping[str, Dimensions | None]

    @classmethod
    def of_runner(cls, runner: Runner, label: str) -> Declared:
        """Return what an active runner tells."""
        specs = runner.inputs
        found = getattr(runner, "dimensions", None)
        inputs = {spec.name: spec.shape for spec in specs} if found is None else found["inputs"]
        outputs = {name: (None if found is None else found["outputs"][name] or None) for name in runner.outputs}
        return cls(
            label,
            {name: _dimensions(sizes) for name, sizes in inputs.items()},
            {spec.name: spec.dtype for spec in specs},
            {name: None if sizes is None else _dimensions(sizes) for name, sizes in outputs.items()},
        )

    @classmethod
    def of_specs(cls, specs: Sequence[TensorSpec], label: str = "the network") -> Declared:
        """Return what the inputs alone tell."""
        return cls(label, {spec.name: spec.shape for spec in specs}, {spec.name: spec.dtype for spec in specs}, {})

    @property
    def specs(self) -> list[TensorSpec]:
        """The inputs, with None for every free size."""
        return [TensorSpec(name, _numbers(sizes), self.dtypes[name]) for name, sizes in self.inputs.items()]

    @property
    def is_free(self) -> bool:
        """Whether an input has a free size."""
        return any(None in _numbers(sizes) for sizes in self.inputs.values())

    @property
    def axes(self) -> dict[str, int | None]:
        """The axis of the batch in each input, as far as the sizes tell."""
        return _input_axes(self)

    @property
    def with_free_batch(self) -> list[TensorSpec]:
        """The inputs, with None for every free size and for the batch."""
        axes = self.axes
        return [
            spec._replace(
                shape=tuple(None if place == axes[spec.name] else size for place, size in enumerate(spec.shape))
            )
            for spec in self.specs
        ]

    def with_sizes(self, asked: Sequence[TensorSpec], *, but_batch: bool = False) -> Declared:
        """Return a copy with every free size that `asked` gives, except the batch on request.

        Raises:
            InputError: There is no such input, or it has other sizes or another type.
        """
        by_name = {spec.name: spec for spec in asked}
        if len(self.inputs) == 1 and len(asked) == 1 and asked[0].name == UNNAMED:
            by_name = {next(iter(self.inputs)): asked[0]}
        unknown = sorted(set(by_name) - set(self.inputs))
        if unknown:
            reads = ", ".join(map(str, self.specs))
            raise InputError(f"no input {unknown[0]}", where="--input-shape", hint=f"{self.label} reads {reads}")
        axes = self.axes
        found = dict(self.inputs)
        for name, spec in by_name.items():
            own, dtype = self.inputs[name], self.dtypes[name]
            # float32 is also the default.
            if spec.dtype not in ("float32", dtype):
                raise InputError(
                    f"{self.label} reads {TensorSpec(name, _numbers(own), dtype)}, not {spec.dtype}",
                    where="--input-shape",
                )
            pairs = list(zip(own, spec.shape, strict=False))
            fits = len(own) == len(spec.shape) and all(
                size is None or not isinstance(due, int) or due == size for due, size in pairs
            )
            if not fits:
                raise InputError(
                    f"expected sizes of {shape_text(_numbers(own))}, got {shape_text(spec.shape)}",
                    where=f"--input-shape, {name}",
                    hint="only dynamic dimensions can be chosen, those shown as ?",
                )
            found[name] = tuple(
                due if size is None or (but_batch and place == axes[name]) else size
                for place, (due, size) in enumerate(pairs)
            )
        return replace(self, inputs=found)

    def named_like(self, first: Declared) -> Declared:
        """Return a copy with the names of another model: they correspond by name, else by position."""
        if len(self.inputs) != len(first.inputs):
            counts = [f"{each.label} takes {len(each.inputs)}" for each in (first, self)]
            raise InputError(f"the models take different inputs: {counts[0]}, {counts[1]} inputs")
        inputs = _names(first.inputs, self.inputs)
        outputs = _names(first.outputs, self.outputs) if len(self.outputs) == len(first.outputs) else {}
        return replace(
            self,
            inputs={name: self.inputs[own] for name, own in inputs.items()},
            dtypes={name: self.dtypes[own] for name, own in inputs.items()},
            outputs={name: self.outputs[own] for name, own in outputs.items()},
        )

    def batch(self, axes: Mapping[str, int | None]) -> int | None:
        """Return the size that the inputs have along these axes, or None if it is free.

        Raises:
            InputError: They have different ones.
        """
        sizes = {self.inputs[name][axis] for name, axis in axes.items() if axis is not None and name in self.inputs}
        found = sorted(size for size in sizes if _fixed(size))
        if len(found) > 1:
            texts = " and ".join(map(str, found))
            raise InputError(f"expected one batch size, its inputs have {texts}", where=self.label)
        return found[0] if found else None


def resolved(
    models: Sequence[Declared],
    asked: Sequence[TensorSpec] = (),
    given: Callable[[], Mapping[str, Sequence[int]]] | None = None,
    limits: Mapping[str, tuple[int, int]] | None = None,
) -> Signature:
    """Return the common signature of models, with the names of the first.

    Sizes that no model fixes are those `asked` for, else those of the arrays whose shapes `given` returns by name.
    Outputs whose axis the models do not tell are missing in the result; `settled` finds them.

    Raises:
        InputError: The models take different inputs, or a size is not known.
    """
    first, *others = [model.named_like(models[0]) for model in models]
    whole = first.with_sizes(asked)
    first = first.with_sizes(asked, but_batch=True)
    # A model with free sizes shows more than one whose sizes are all fixed.
    shown = sorted((first, *others), key=lambda model: not model.is_free)
    axes = shown[0].axes
    specs, batches = [], set[int]()
    for name in first.inputs:
        axis = axes[name]
        sizes = _merged(name, [first, *others], axis)
        if axis is not None:
            batches.update(size for size in (model.inputs[name][axis] for model in (first, *others)) if _fixed(size))
            sizes[axis] = None
        specs.append(_sized(name, sizes, axis, (first, *others), given))
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
    """Return random inputs of a batch of 1 or 2."""
    feeds = {}
    for place, spec in enumerate(found.inputs):
        samples = spec.random(size, 0, place)
        feeds[spec.name] = np.asarray(samples[0]) if spec.axis is None else np.moveaxis(samples, 0, spec.axis)
    return feeds


def settled(found: Signature, outputs: Iterable[str], run: Run, alone: Mapping[str, Any] | None = None) -> Signature:
    """Find the axis of the batch in outputs by running a batch of 1, unless its outputs are given, and one of 2.

    Where the network does not run with 2, its batch is 1.
    """
    names = list(outputs)
    if all(name in found.outputs for name in names) or all(axis is None for axis in found.input_axes.values()):
        return found
    alone = alone or run(trial(found, 1))
    try:
        both = run(trial(found, 2))
    except ModelError:
        axes = {name: batch_of_output(alone[name].shape, 1) for name in names}
        return replace(found.with_axes(axes), size=found.size or 1)
    return found.with_axes({name: _grown(alone[name].shape, both[name].shape) for name in names})


def batch_of_output(shape: Sequence[Dimension], size: int) -> int | None:
    """Return the axis of a batch of this size: the first axis if it has the size, else the only other one."""
    places = [place for place, length in enumerate(shape) if length == size]
    return places[0] if places and (places[0] == 0 or len(places) == 1) else None


def _grown(one: Sequence[int], two: Sequence[int]) -> int | None:
    if len(one) != len(two):
        return None
    places = [place for place, sizes in enumerate(zip(one, two, strict=True)) if sizes[0] != sizes[1]]
    return places[0] if len(places) == 1 and (one[places[0]], two[places[0]]) == (1, 2) else None


def _dimensions(sizes: Iterable[Any]) -> Dimensions:
    return tuple(size if isinstance(size, str) or (isinstance(size, int) and size >= 0) else None for size in sizes)


def _numbers(sizes: Dimensions) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in sizes)


def _fixed(size: Dimension) -> TypeGuard[int]:
    return isinstance(size, int)


def _is_batch_name(name: Dimension) -> bool:
    return isinstance(name, str) and (name.lower() in _BATCH_NAMES or "batch" in name.lower())


def _input_axes(model: Declared) -> dict[str, int | None]:
    """Return the axis of the batch in each input."""
    every = list(model.inputs.values())
    symbols = {size for sizes in every for size in sizes if _is_batch_name(size)}
    symbols = symbols or {sizes[0] for sizes in every if sizes and isinstance(sizes[0], str)}
    free = bool(symbols) or any(sizes and not _fixed(sizes[0]) for sizes in every)
    size = None if free else _fixed_batch(model)
    return {name: _input_axis(sizes, symbols, free, size) for name, sizes in model.inputs.items()}


def _input_axis(sizes: Dimensions, symbols: set[Any], free: bool, batch: int | None) -> int | None:
    named = [place for place, size in enumerate(sizes) if isinstance(size, str) and size in symbols]
    if named:
        return named[0]
    open_ones = [place for place, size in enumerate(sizes) if not _fixed(size)]
    if not free:
        return None if batch is None else batch_of_output(sizes, batch)
    if 0 in open_ones:
        return 0
    return open_ones[0] if len(open_ones) == 1 else None


def _fixed_batch(model: Declared) -> int | None:
    """Return the batch size of a model whose first sizes are all fixed; None if it has no batch."""
    every = [sizes for sizes in model.inputs.values() if sizes]
    counts = {sizes[0]: sum(sizes[0] in other for other in every) for sizes in every}
    if not counts:
        return None
    # The size that most inputs have, in doubt that of the first.
    batch = max(counts, key=lambda size: counts[size])
    if not isinstance(batch, int) or batch == 1:
        return batch if isinstance(batch, int) else None
    known = [sizes for sizes in model.outputs.values() if sizes is not None and all(map(_fixed, sizes))]
    numbers = [[size for size in sizes if _fixed(size)] for sizes in every if all(map(_fixed, sizes))]
    image = batch in _COLOURS and any(
        len(sizes) == 3 and sizes[0] == batch and min(sizes[1:]) >= _SMALLEST_IMAGE for sizes in numbers
    )
    in_outputs = not known or any(batch_of_output(sizes, batch) is not None for sizes in known)
    return batch if in_outputs and not image and any(len(sizes) > 1 for sizes in every) else None


def _output_axes(model: Declared, axes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the axes that the names of free sizes tell, or in a model of fixed sizes the batch size."""
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
            if all(map(_fixed, sizes)):
                found[name] = None if batch is None else batch_of_output(sizes, int(batch or 0))
    return found


def _names(wanted: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    return {name: name for name in wanted} if set(wanted) == set(own) else dict(zip(wanted, own, strict=True))


def _merged(name: str, models: Sequence[Declared], axis: int | None) -> list[Dimension]:
    """Return the sizes that any model fixes; the batch may differ."""
    shapes = [model.inputs[name] for model in models]
    kinds = {model.dtypes[name] for model in models}
    floats = all(kind.startswith("float") for kind in kinds)
    fits = len({len(sizes) for sizes in shapes}) == 1 and (floats or len(kinds) == 1)
    merged: list[Dimension] = []
    for place, sizes in enumerate(zip(*shapes, strict=True) if fits else ()):
        known = {size for size in sizes if _fixed(size)}
        fits = fits and (len(known) <= 1 or place == axis)
        merged.append(next(iter(known), None))
    if not fits:
        texts = [
            f"{'' if floats else f'{model.dtypes[name]} '}{shape_text(_numbers(model.inputs[name]))}"
            for model in models
        ]
        raise InputError(
            f"the models take different inputs: {' and '.join(texts)}", hint="compare forms of one network"
        )
    return merged


def _sized(
    name: str,
    sizes: Sequence[Dimension],
    axis: int | None,
    models: Sequence[Declared],
    given: Callable[[], Mapping[str, Sequence[int]]] | None,
) -> TensorSpec:
    """Return an input with the sizes of a given array where no model fixes them."""
    kinds = [model.dtypes[name] for model in models]
    # float32 is fed, whatever floats several models take.
    dtype = "float32" if len(kinds) > 1 and kinds[0].startswith("float") else kinds[0]
    shape = _numbers(tuple(sizes))
    if all(size is not None or place == axis for place, size in enumerate(shape)):
        return TensorSpec(name, shape, dtype)
    if given is None:
        raise InputError(
            f"input {name!r} has dynamic dimensions: {shape_text(shape)}",
            where=models[0].label,
            hint=f"give --input-shape {quoted(_example(name, shape, axis))}, or --inputs FILE.npy",
        )
    shapes = given()
    alone = len(shapes) == len(models[0].inputs) == 1
    found = next(iter(shapes.values())) if alone else shapes.get(name, ())
    whole = _whole(shape, axis, found)
    if whole is None:
        raise InputError(f"expected inputs {TensorSpec(name, shape, dtype)}, got shape {tuple(found)}", where="inputs")
    return TensorSpec(name, whole, dtype)


def _whole(shape: tuple[int | None, ...], axis: int | None, given: Sequence[int]) -> tuple[int | None, ...] | None:
    """Return the sizes of an array that holds a batch, one sample, or several of either; None if it does not fit."""
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
