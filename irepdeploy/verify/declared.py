"""Declared: the sizes that a model declares for its inputs and outputs, and which of them is the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from irepdeploy.board.runner import Runner, TensorSpec, shape_text
from irepdeploy.errors import InputError, ModelError, counted
from irepdeploy.runtime.given_inputs import batch_axis
from irepdeploy.verify.input_spec import UNNAMED

__all__ = [
    "Declared",
    "Dimension",
    "Dimensions",
    "asked_by_name",
    "is_fixed",
    "numbers",
    "with_asked",
]

# Size of a tensor along one axis: a number, the name of a free size, or None for an unnamed free size.
Dimension = int | str | None
Dimensions = tuple[Dimension, ...]

_BATCH_NAMES = {"n", "b", "bs"}
_COLOURS, _SMALLEST_IMAGE = (3, 4), 8


@dataclass(frozen=True)
class Declared:
    """Sizes and dtypes that a model declares for its inputs and outputs.

    Attributes:
        label: Name of the model in error messages.
        inputs: Sizes of each input.
        dtypes: Dtype of each input.
        outputs: Sizes of each output, or None if they are not declared.
    """

    label: str
    inputs: Mapping[str, Dimensions]
    dtypes: Mapping[str, str]
    outputs: Mapping[str, Dimensions | None]

    def __post_init__(self) -> None:
        for name, sizes in self.inputs.items():
            if 0 in sizes:
                raise ModelError(
                    f"input {name!r} is declared with a size of 0: {shape_text(numbers(sizes))}",
                    where=self.label,
                    hint="export the network again with the size that it has, or a dynamic one",
                )

    @classmethod
    def of_runner(cls, runner: Runner, label: str) -> Declared:
        """Return what an active runner declares."""
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
        """Return a declaration of the inputs alone."""
        return cls(label, {spec.name: spec.shape for spec in specs}, {spec.name: spec.dtype for spec in specs}, {})

    @property
    def specs(self) -> list[TensorSpec]:
        """All inputs, with None for every free size."""
        return [TensorSpec(name, numbers(sizes), self.dtypes[name]) for name, sizes in self.inputs.items()]

    @property
    def is_free(self) -> bool:
        """Whether an input has a free size."""
        return any(None in numbers(sizes) for sizes in self.inputs.values())

    @property
    def axes(self) -> dict[str, int | None]:
        """The axis of the batch in each input, as far as the sizes determine it."""
        return _input_axes(self)

    @property
    def with_free_batch(self) -> list[TensorSpec]:
        """All inputs, with None for every free size and for the batch."""
        axes = self.axes
        return [
            spec._replace(
                shape=tuple(None if place == axes[spec.name] else size for place, size in enumerate(spec.shape))
            )
            for spec in self.specs
        ]

    def with_sizes(self, asked: Sequence[TensorSpec], *, but_batch: bool = False) -> Declared:
        """Return a copy in which `asked` fixes free sizes, except that of the batch if `but_batch`.

        Raises:
            InputError: There is no such input, or its sizes or dtype are different.
        """
        by_name = asked_by_name(asked, list(self.inputs))
        unknown = sorted(set(by_name) - set(self.inputs))
        if unknown:
            reads = ", ".join(map(str, self.specs))
            unnamed = f"{shape_text(by_name[unknown[0]].shape)} does not name one of the inputs"
            what = unnamed if unknown[0] == UNNAMED else f"unknown input {unknown[0]}"
            raise InputError(what, where="--input-shape", hint=f"{self.label} reads {reads}")
        axes = self.axes
        found = dict(self.inputs)
        for name, spec in by_name.items():
            own, dtype = self.inputs[name], self.dtypes[name]
            # float32 is also what an unspecified dtype defaults to.
            if spec.dtype not in ("float32", dtype):
                raise InputError(
                    f"{self.label} reads {TensorSpec(name, numbers(own), dtype)}, not {spec.dtype}",
                    where="--input-shape",
                )
            pairs = list(zip(own, spec.shape, strict=False))
            fits = len(own) == len(spec.shape) and all(
                size is None or not isinstance(due, int) or due == size for due, size in pairs
            )
            if not fits:
                free = "those shown as ?" if None in numbers(own) else "and this input has none"
                raise InputError(
                    f"expected sizes of {shape_text(numbers(own))}, got {shape_text(spec.shape)}",
                    where=f"--input-shape, {name}",
                    hint=f"only dynamic dimensions can be chosen, {free}",
                )
            found[name] = tuple(
                due if size is None or (but_batch and place == axes[name]) else size
                for place, (due, size) in enumerate(pairs)
            )
        return replace(self, inputs=found)

    def named_like(self, first: Declared) -> Declared:
        """Return a copy with the names of another model; inputs and outputs are matched by name, else by position.

        Raises:
            InputError: The models have different numbers of inputs.
        """
        if len(self.inputs) != len(first.inputs):
            counts = [f"{each.label} takes {counted(len(each.inputs), 'input')}" for each in (first, self)]
            hint = (
                "compare forms of one network; a checkpoint of several inputs is saved with save(net, path, inputs=...)"
            )
            raise InputError(f"the models take different inputs: {counts[0]}, {counts[1]}", hint=hint)
        inputs = _names(first.inputs, self.inputs)
        outputs = _names(first.outputs, self.outputs) if len(self.outputs) == len(first.outputs) else {}
        return replace(
            self,
            inputs={name: self.inputs[own] for name, own in inputs.items()},
            dtypes={name: self.dtypes[own] for name, own in inputs.items()},
            outputs={name: self.outputs[own] for name, own in outputs.items()},
        )

    def batch(self, axes: Mapping[str, int | None]) -> int | None:
        """Return the batch size of the inputs, given the axis of the batch in each, or None if it is free.

        Raises:
            InputError: The inputs have different batch sizes.
        """
        sizes = {self.inputs[name][axis] for name, axis in axes.items() if axis is not None and name in self.inputs}
        found = sorted(size for size in sizes if is_fixed(size))
        if len(found) > 1:
            texts = " and ".join(map(str, found))
            raise InputError(f"expected one batch size, its inputs have {texts}", where=self.label)
        return found[0] if found else None


def asked_by_name(asked: Sequence[TensorSpec], names: Sequence[str]) -> dict[str, TensorSpec]:
    """Return the requested inputs by name; a single unnamed input is the only one of `names`."""
    if len(names) == len(asked) == 1 and asked[0].name == UNNAMED:
        return {names[0]: asked[0]}
    return {spec.name: spec for spec in asked}


def with_asked(known: Sequence[TensorSpec], asked: Declared) -> list[TensorSpec]:
    """Return the inputs of a network, with None for the batch and with requested sizes in place of stored ones.

    Inputs that are not requested keep their sizes. If the name of a requested input is unknown, the requested inputs
    replace all known ones.
    """
    by_name = asked_by_name(asked.specs, [spec.name for spec in known])
    if not set(by_name) <= {spec.name for spec in known}:
        return asked.with_free_batch
    free = dict(zip(by_name, asked.with_free_batch, strict=True))
    return [_resized(spec, by_name[spec.name], free[spec.name]) if spec.name in by_name else spec for spec in known]


def _resized(own: TensorSpec, asked: TensorSpec, free: TensorSpec) -> TensorSpec:
    shape = free.shape
    if len(own.shape) == len(asked.shape):
        # The batch is where the network has it.
        pairs = zip(own.shape, asked.shape, strict=True)
        shape = tuple(None if due is None else size or due for due, size in pairs)
    # float32 is also what an unspecified dtype defaults to.
    return TensorSpec(own.name, shape, own.dtype if asked.dtype == "float32" else asked.dtype)


def _dimensions(sizes: Iterable[Any]) -> Dimensions:
    return tuple(size if isinstance(size, str) or (isinstance(size, int) and size >= 0) else None for size in sizes)


def numbers(sizes: Dimensions) -> tuple[int | None, ...]:
    """Return the sizes, with None for every free one."""
    return tuple(size if isinstance(size, int) else None for size in sizes)


def is_fixed(size: Dimension) -> TypeGuard[int]:
    """Return whether a size is a number."""
    return isinstance(size, int)


def _is_batch_name(name: Dimension) -> bool:
    return isinstance(name, str) and (name.lower() in _BATCH_NAMES or "batch" in name.lower())


def _input_axes(model: Declared) -> dict[str, int | None]:
    """Return the axis of the batch in each input."""
    every = list(model.inputs.values())
    symbols = {size for sizes in every for size in sizes if _is_batch_name(size)}
    symbols = symbols or {sizes[0] for sizes in every if sizes and isinstance(sizes[0], str)}
    free = bool(symbols) or any(sizes and not is_fixed(sizes[0]) for sizes in every)
    size = None if free else _fixed_batch(model)
    return {name: _input_axis(sizes, symbols, free, size) for name, sizes in model.inputs.items()}


def _input_axis(sizes: Dimensions, symbols: set[Any], free: bool, batch: int | None) -> int | None:
    named = [place for place, size in enumerate(sizes) if isinstance(size, str) and size in symbols]
    if named:
        return named[0]
    open_ones = [place for place, size in enumerate(sizes) if not is_fixed(size)]
    if not free:
        return None if batch is None else batch_axis(sizes, batch)
    if 0 in open_ones:
        return 0
    return open_ones[0] if len(open_ones) == 1 else None


def _fixed_batch(model: Declared) -> int | None:
    """Return the batch size of a model whose first sizes are all fixed, or None if it has no batch."""
    every = [sizes for sizes in model.inputs.values() if sizes]
    counts = {sizes[0]: sum(sizes[0] in other for other in every) for sizes in every}
    if not counts:
        return None
    # The most frequent size; if several are equally frequent, the first.
    batch = max(counts, key=lambda size: counts[size])
    if not isinstance(batch, int) or batch == 1:
        return batch if isinstance(batch, int) else None
    known = [sizes for sizes in model.outputs.values() if sizes is not None and all(map(is_fixed, sizes))]
    whole = [[size for size in sizes if is_fixed(size)] for sizes in every if all(map(is_fixed, sizes))]
    image = batch in _COLOURS and any(
        len(sizes) == 3 and sizes[0] == batch and min(sizes[1:]) >= _SMALLEST_IMAGE for sizes in whole
    )
    in_outputs = not known or any(batch_axis(sizes, batch) is not None for sizes in known)
    return batch if in_outputs and not image and any(len(sizes) > 1 for sizes in every) else None


def _names(wanted: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    return {name: name for name in wanted} if set(wanted) == set(own) else dict(zip(wanted, own, strict=True))
