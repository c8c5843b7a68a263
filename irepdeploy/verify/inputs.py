"""Gather inputs for comparing models: seeded random ones, and real ones or the user's own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.limits import check_memory

__all__ = [
    "Given",
    "InputGroup",
    "Inputs",
    "check_batch",
    "gather_inputs",
    "joined",
    "mapped",
    "named",
    "samples_in",
    "specs_of",
]

Array = np.ndarray[Any, Any]
# (N, ...) for a model of one input, else one such array by name, in the order of ``forward``.
Inputs = Array | Mapping[str, Array]
# Given in place of real inputs: such inputs, or a file or folder of them.
Given = str | os.PathLike[str] | Array | Mapping[str, Array]

_LARGE = 64
_FEW, _MANY = 8, 64
_COPIES = 4
_IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True)
class InputGroup:
    """Inputs of one origin: (N, ...), or for a model of several inputs one such array by name."""

    name: str
    array: Any
    seed: int | None = None

    @property
    def count(self) -> int:
        """Number of inputs."""
        return samples_in(self.array)

    def to_dict(self) -> dict[str, Any]:
        """Return the group without its values, for certificates; shapes are by name if there are several inputs."""
        shape: Any = mapped(self.array, lambda array: list(array.shape[1:]))
        return {"name": self.name, "count": self.count, "shape": shape, "seed": self.seed}


def samples_in(inputs: Inputs) -> int:
    """Return the number of inputs."""
    if isinstance(inputs, Mapping):
        return min((len(array) for array in inputs.values()), default=0)
    return len(inputs)


def mapped(inputs: Inputs, function: Callable[[Array], Any]) -> Any:
    """Apply `function` to the array, or to each array by name."""
    if isinstance(inputs, Mapping):
        return {name: function(array) for name, array in inputs.items()}
    return function(inputs)


def joined(groups: Sequence[Inputs]) -> Inputs:
    """Concatenate the inputs of all groups."""
    first = groups[0]
    if isinstance(first, Mapping):
        each: Any = groups
        return {name: np.concatenate([group[name] for group in each]) for name in first}
    return np.concatenate([np.asarray(group) for group in groups])


def named(inputs: Inputs, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Assign arrays to the inputs of a model: by name if the names match, else by position."""
    arrays = dict(inputs) if isinstance(inputs, Mapping) else {specs[0].name: inputs}
    if len(arrays) != len(specs):
        due = ", ".join(spec.name for spec in specs)
        raise InputError(f"expected {len(specs)} inputs ({due}), got {len(arrays)}", where="inputs")
    if set(arrays) == {spec.name for spec in specs}:
        return {spec.name: arrays[spec.name] for spec in specs}
    return {spec.name: array for spec, array in zip(specs, arrays.values(), strict=True)}


def specs_of(wanted: Sequence[Any]) -> list[TensorSpec]:
    """Return the specs as they are, or the one float32 input of a shape without a batch."""
    if wanted and all(isinstance(item, TensorSpec) for item in wanted):
        return list(wanted)
    return [TensorSpec("input", (None, *wanted))]


def check_batch(specs: Sequence[TensorSpec], count: int) -> None:
    """Raise InputError if a spec has no elements, RunError if `count` inputs of each, with copies, exceed memory."""
    for spec in specs:
        if 0 in _sizes(spec):
            raise InputError(f"expected sizes from 1 up, got {spec}", where="inputs")
        size = count * math.prod(_sizes(spec)) * np.dtype(spec.dtype).itemsize
        check_memory(_COPIES * size, f"{count:,} of the input {spec}", "inputs")


def gather_inputs(
    wanted: Sequence[int] | Sequence[TensorSpec],
    *,
    given: Given | None = None,
    dataset: str | None = None,
    seed: int = 0,
) -> list[InputGroup]:
    """Return 8 seeded random inputs and 64 real ones (8 if a side is above 64), or given ones instead.

    If no input is an image, there are only 64 random inputs (8 if a side is above 64). Random floats are standard
    normal, random integers 0 or 1 (uint8: 0 to 255).

    Args:
        wanted: the shape of one float32 input without its batch, or the inputs of the model; for several, every group
            holds one array by name.
        given: an array (N, ...) or one input without a batch, such arrays by name, or a path for `read_inputs`.
        dataset: name of the data set that the network was trained on; its search-validation images are the real ones.
        seed: of the random inputs.
    """
    specs = specs_of(wanted)
    few = any(max(_sizes(spec)[1:], default=0) > _LARGE for spec in specs)
    count = _FEW if few else _MANY
    check_batch(specs, count)
    real = _real(specs, count, dataset, seed) if given is None else _given(given, specs, dataset)
    drawn = {spec.name: _random(spec, _FEW if real else count, seed, place) for place, spec in enumerate(specs)}
    groups = [InputGroup(_random_name(specs), _plain(drawn), seed)]
    return groups if real is None else [*groups, real]


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.shape[1:] if size is not None)


def _plain(arrays: dict[str, Array]) -> Inputs:
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _random(spec: TensorSpec, count: int, seed: int, place: int) -> Array:
    from irepdeploy.data import random_inputs

    if _is_float(spec):
        # The first input uses the seed itself.
        own = seed if place == 0 else int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
        return random_inputs(_sizes(spec), count, own).astype(spec.dtype, copy=False)
    high = 256 if spec.dtype == "uint8" else 2
    return np.random.default_rng([seed, place]).integers(0, high, (count, *_sizes(spec))).astype(spec.dtype)


def _random_name(specs: Sequence[TensorSpec]) -> str:
    whole = [spec for spec in specs if not _is_float(spec)]
    if not whole:
        return "random, standard normal"
    texts = [f"{spec.name} 0 to {255 if spec.dtype == 'uint8' else 1}" for spec in whole]
    if len(whole) < len(specs):
        texts.insert(0, "standard normal")
    return f"random, {', '.join(texts)}"


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.startswith("float")


def _is_image(spec: TensorSpec) -> bool:
    sizes = _sizes(spec)
    return spec.dtype == "float32" and len(sizes) == 3 and sizes[0] in _IMAGE_CHANNELS


def _real(specs: Sequence[TensorSpec], count: int, dataset: str | None, seed: int) -> InputGroup | None:
    from irepdeploy.data import real_inputs

    if len(specs) == 1 and len(_sizes(specs[0])) == 3 and _is_float(specs[0]):
        array, name = real_inputs(_sizes(specs[0]), count, dataset)
        return InputGroup(name, array)
    if not any(map(_is_image, specs)):
        return None
    arrays: dict[str, Array] = {}
    origins: dict[str, list[str]] = {}
    for place, spec in enumerate(specs):
        if _is_image(spec):
            arrays[spec.name], origin = real_inputs(_sizes(spec), count, dataset)
        else:
            # Different from those of the random group.
            arrays[spec.name], origin = _random(spec, count, seed, place + len(specs)), "random"
        origins.setdefault(origin, []).append(spec.name)
    # Real inputs come first.
    texts = [f"{origin} for {' and '.join(names)}" for origin, names in origins.items()]
    texts.sort(key=lambda text: text.startswith("random for"))
    return InputGroup(", ".join(texts), arrays, seed)


def _given(given: Given, specs: Sequence[TensorSpec], dataset: str | None) -> InputGroup:
    from irepdeploy.verify.input_files import checked, fitted, read_inputs

    if isinstance(given, str | os.PathLike):
        return read_inputs(given, specs, dataset)
    if isinstance(given, Mapping):
        return InputGroup("given inputs", _plain(fitted(given, specs, "inputs")))
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(
            f"expected {len(specs)} arrays, got one: {names}", where="inputs", hint="give {name: array}, or a .npz file"
        )
    return InputGroup("given inputs", checked(given, specs[0], "inputs"))
