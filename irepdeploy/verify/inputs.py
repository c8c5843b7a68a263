"""Gather inputs for comparing models: seeded random inputs, and real inputs or the user's own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, counted
from irepdeploy.limits import check_memory
from irepdeploy.runtime.given_inputs import Given
from irepdeploy.verify.declared import Declared
from irepdeploy.verify.input_spec import UNNAMED, InputSpec
from irepdeploy.verify.samples import COPIES, Inputs, Samples, samples_in
from irepdeploy.verify.signature import Signature, resolved

__all__ = [
    "InputGroup",
    "Wanted",
    "gather_inputs",
    "random_group",
    "signature_for",
    "signature_of",
    "specs_of",
]

Array = np.ndarray[Any, Any]
# The shape of one float32 input without the batch, the inputs of a model, or its signature.
Wanted = Sequence[int] | Sequence[TensorSpec] | Signature

# The number of inputs depends on their longest side, since a large map already contains many values to compare.
_LARGE, _HUGE = 64, 256
_MANY, _FEW, _FEWEST = 64, 8, 2
# Dtypes whose values may be restricted to a range. Any uint8 is a valid pixel, and both bools are valid in a mask.
_RANGED = ("int", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class InputGroup:
    """Inputs of one origin.

    Attributes:
        name: Description of the origin.
        array: Array (N, ...), or for a model of several inputs one such array by name.
        seed: Seed of the random values, or None.
    """

    name: str
    array: Any
    seed: int | None = None

    @property
    def count(self) -> int:
        """Number of inputs."""
        return samples_in(self.array)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object for certificates that describes the group without its values.

        Shapes are given by name if there are several inputs. Axes are included if the batch is not the first axis of
        every input and output.
        """
        arrays = self.array
        shape: Any
        if isinstance(arrays, Mapping):
            shape = {name: list(each.shape[1:]) for name, each in arrays.items()}
            shape = shape if len(shape) > 1 else next(iter(shape.values()))
        else:
            shape = list(arrays.shape[1:])
        found = {"name": self.name, "count": self.count, "shape": shape, "seed": self.seed}
        return {**found, "axes": arrays.signature.to_dict()} if isinstance(arrays, Samples) else found


def signature_of(wanted: Wanted) -> Signature:
    """Return the signature of a model's inputs."""
    if isinstance(wanted, Signature):
        return wanted
    items: Any = wanted
    if items and all(isinstance(item, TensorSpec) for item in items):
        return Signature.of(Declared.of_specs(items).with_free_batch)
    return Signature.of([TensorSpec(UNNAMED, (None, *items))])


def gather_inputs(
    wanted: Wanted, *, given: Given | None = None, dataset: str | None = None, seed: int = 0
) -> list[InputGroup]:
    """Return a group of seeded random inputs and a group of real inputs.

    There are 8 random and 64 real inputs, 8 and 8 if a side is longer than 64, or 2 and 2 if it is longer than 256. If
    no input is an image and none are given, the only group is random, with the number of real inputs. Random floats are
    standard normal. Random integers lie within the limits that the network reveals, else between the smallest and the
    largest given value, else they are 0 or 1 (uint8: 0 to 255).

    Args:
        wanted: Shape of one float32 input without the batch, or the inputs or signature of the model.
        given: Inputs that replace the real ones: an array (N, ...), a single input without a batch, such arrays by
            name or in the order of the inputs, or a path for `read_inputs`.
        dataset: Name of the data set on which the network was trained, whose search-validation images are used as real
            inputs.
        seed: Seed of the random inputs.

    Returns:
        The groups, whose inputs are one array (N, ...), or one such array by name if the model has several inputs.

    Raises:
        InputError: A size is 0, or the given inputs do not fit.
    """
    signature = signature_of(wanted)
    side = max((max(spec.sample, default=0) for spec in signature.inputs), default=0)
    count = _FEWEST if side > _HUGE else _FEW if side > _LARGE else _MANY
    for spec in signature.inputs:
        if 0 in spec.sample:
            raise InputError(f"expected sizes from 1 up, got {spec}", where="inputs")
        size = count * math.prod(spec.sample) * np.dtype(spec.dtype).itemsize
        check_memory(COPIES * size, f"{count:,} of the input {spec}", "inputs")
    real = _real(signature, count, dataset, seed) if given is None else _given(given, signature, dataset)
    random = random_group(signature, min(_FEW, count) if real else count, seed)
    return [random] if real is None else [random, real]


def random_group(signature: Signature, count: int, seed: int) -> InputGroup:
    """Return a group of `count` random inputs."""
    drawn = {spec.name: _random(spec, signature, count, seed, place) for place, spec in enumerate(signature.inputs)}
    texts = dict.fromkeys(spec.values for spec in sorted(signature.inputs, key=lambda spec: not spec.is_float))
    return InputGroup(f"random, {', '.join(texts)}", _inputs(drawn, signature), seed)


def signature_for(models: Sequence[Declared], asked: Sequence[TensorSpec], given: Given | None) -> Signature:
    """Return the common signature of models, with the sizes and integer ranges of the given inputs.

    An integer such as a sample rate controls how a network runs, so a random one would not suit the other inputs.
    """
    if given is None:
        return resolved(models, asked)
    whole = any(kind.startswith(_RANGED) for model in models for kind in model.dtypes.values())
    names = list(models[0].inputs)
    return resolved(models, asked, lambda: _shapes(given, names), _limits(given, names) if whole else {})


def _shapes(given: Given, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the given arrays by name; the name of a single array is arbitrary."""
    return {name: tuple(np.shape(array)) for name, array in _arrays(given, names).items()}


def _limits(given: Given, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest integer in each given array."""
    arrays = _arrays(given, names)
    named = dict(zip(names, arrays.values(), strict=True)) if len(names) == len(arrays) == 1 else arrays
    found = {name: np.asarray(array) for name, array in named.items()}
    return {
        name: (int(array.min()), int(array.max()))
        for name, array in found.items()
        if array.dtype.name.startswith(_RANGED) and array.size
    }


def specs_of(given: Given, name: str = UNNAMED, places: Sequence[str] = ()) -> list[TensorSpec]:
    """Return the inputs that the given arrays fit, with None for the batch.

    A single array of three dimensions is one image (C, H, W).

    Args:
        given: Arrays, or a file or folder of them.
        name: Name of a single unnamed array.
        places: Names of the inputs by position, for arrays in the order of the inputs.
    """
    if isinstance(given, tuple) and len(places) != 1:
        places = [*places[: len(given)], *(f"input_{place}" for place in range(len(places), len(given)))]
    arrays = _arrays(given, places)
    if len(arrays) > 1:
        return Declared.of_specs(
            [TensorSpec(each, array.shape, array.dtype.name) for each, array in arrays.items()]
        ).with_free_batch
    ((own, array),) = arrays.items()
    shape = array.shape if array.ndim == 3 else array.shape[1:]
    return [TensorSpec(name if own == UNNAMED else own, (None, *shape), array.dtype.name)]


def _arrays(given: Given, names: Sequence[str]) -> Mapping[str, Array]:
    """Return given arrays by name; arrays in order get the `names` of the inputs."""
    from irepdeploy.verify.input_files import read_arrays

    found = read_arrays(given) if isinstance(given, str | os.PathLike) else given
    if isinstance(found, tuple):
        if len(found) == len(names):
            return dict(zip(names, found, strict=True))
        if len(names) > 1 or len({array.shape for array in found}) > 1:
            raise InputError(
                f"expected {counted(len(names), 'array')} ({', '.join(names)}), got {len(found)}",
                where="inputs",
                hint="give one for each input in this order, {name: array}, or a .npz file",
            )
        # Samples of the only input.
        found = np.stack(found)
    return found if isinstance(found, Mapping) else {UNNAMED: found}


def _inputs(arrays: dict[str, Array], signature: Signature) -> Inputs:
    if not signature.is_plain:
        return Samples(arrays, signature)
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _random(spec: InputSpec, signature: Signature, count: int, seed: int, place: int) -> Array:
    shared = spec.axis is None and any(other.axis is not None for other in signature.inputs)
    # If other inputs have a batch, an input without one has the same value for all samples.
    return np.repeat(spec.random(1, seed, place), count, axis=0) if shared else spec.random(count, seed, place)


def _real(signature: Signature, count: int, dataset: str | None, seed: int) -> InputGroup | None:
    if not any(spec.is_image for spec in signature.inputs):
        return None
    from irepdeploy.data import real_inputs

    arrays: dict[str, Array] = {}
    origins: dict[str, list[str]] = {}
    for place, spec in enumerate(signature.inputs):
        if not spec.is_image:
            # These values differ from those of the random group, unless the input has no batch.
            other = place if spec.axis is None else place + len(signature.inputs)
            arrays[spec.name], origin = _random(spec, signature, count, seed, other), "random"
        else:
            last = spec.layout == "hwc"
            sizes = (spec.sample[2], *spec.sample[:2]) if last else spec.sample
            images, origin = real_inputs(sizes, count, dataset)
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if last else images
            arrays[spec.name] = images.astype(spec.dtype, copy=False)
        origins.setdefault(origin, []).append(spec.name)
    if len(arrays) == 1:
        return InputGroup(next(iter(origins)), _inputs(arrays, signature))
    # The description names real inputs first.
    texts = [f"{origin} for {' and '.join(names)}" for origin, names in origins.items()]
    texts.sort(key=lambda text: text.startswith("random for"))
    return InputGroup(", ".join(texts), _inputs(arrays, signature), seed)


def _given(given: Given, signature: Signature, dataset: str | None) -> InputGroup:
    from irepdeploy.verify.input_files import fitted, read_inputs

    if isinstance(given, str | os.PathLike):
        group = read_inputs(given, signature, dataset)
        arrays = group.array if isinstance(group.array, Mapping) else {signature.inputs[0].name: group.array}
        return InputGroup(group.name, _inputs(dict(arrays), signature))
    names = [spec.name for spec in signature.inputs]
    # One array alone is one of several in order.
    arrays = _arrays((given,) if isinstance(given, np.ndarray) else given, names)
    if len(names) == len(arrays) == 1 and not isinstance(given, Mapping):
        arrays = dict(zip(names, arrays.values(), strict=True))
    return InputGroup("given inputs", _inputs(fitted(arrays, signature.inputs, "inputs"), signature))
