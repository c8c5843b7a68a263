"""InputSpec: an input of a network, how its values are drawn, and its syntax on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.board.feeds import limits_of, random_values
from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import InputError
from irepdeploy.limits import check_memory

__all__ = ["UNNAMED", "InputSpec", "input_spec", "input_specs", "spec_text"]

Array = np.ndarray[Any, Any]

# Name of an input that was given without a name; it refers to the only input of a model.
UNNAMED = "input"
_DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip
_COLOURS, _LONGEST = 3, 8
_TEXT = re.compile("(?:(?P<name>.+)[:=])?(?P<shape>scalar|[0-9x?]+)", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class InputSpec:
    """An input of a network with fixed sizes.

    Attributes:
        name: Name of the input.
        shape: All sizes, with None for the batch. An input without None has no batch.
        dtype: Dtype in numpy's notation.
        limits: Smallest and largest integer that the input accepts, if the network reveals them.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    limits: tuple[int, int] | None = None

    @classmethod
    def of(cls, spec: TensorSpec, limits: Mapping[str, tuple[int, int]] | None = None) -> InputSpec:
        """Convert a TensorSpec of which at most the batch is free, and look up the limits of its values by name."""
        return cls(spec.name, spec.shape, spec.dtype, (limits or {}).get(spec.name))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {shape_text(self.shape)}"

    @property
    def axis(self) -> int | None:
        """The axis of the batch, or None if the input has no batch."""
        return self.shape.index(None) if None in self.shape else None

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch."""
        return tuple(size for size in self.shape if size is not None)

    @property
    def is_float(self) -> bool:
        """Whether its values are floating-point numbers."""
        return self.dtype.startswith("float")

    @property
    def is_image(self) -> bool:
        """Whether it takes normalized images, so that photographs are suitable inputs."""
        return self.is_float and self.layout is not None

    @property
    def layout(self) -> str | None:
        """The layout of an image, "chw" or "hwc"; None for anything else, such as feature maps."""
        if (not self.is_float and self.dtype != "uint8") or len(self.sample) != 3:
            return None
        first, middle, last = self.sample
        if first == _COLOURS or (first == 1 and max(middle, last) <= _LONGEST * min(middle, last)):
            return "chw"
        # A map with one channel is as likely a spectrogram as an image, unless it is square.
        return "hwc" if last == _COLOURS or (last == 1 and first == middle) else None

    def random(self, count: int, seed: int, place: int = 0) -> Array:
        """Draw `count` samples (count, ...); `place` is the index of the input, so that inputs of a network differ."""
        check_memory(4 * count * math.prod(self.sample), "an input of this size")
        generator = np.random.default_rng(seed if place == 0 else [seed, place])
        return random_values(generator, (count, *self.sample), self.dtype, self.limits)

    @property
    def values(self) -> str:
        """Description of the random values that `random` draws."""
        if self.is_float:
            return "standard normal"
        least, most = limits_of(self.dtype, self.limits)
        return f"{self.name} {least}" if least == most else f"{self.name} {least} to {most}"


def input_spec(text: str) -> TensorSpec:
    """Parse ``name:1x3x224x224``, ``1x3x224x224``, ``name:1x77:int64`` or ``name=1x77``.

    A size of ``?`` stays free, and the shape ``scalar`` is that of a single number. The dtype defaults to float32.

    Raises:
        InputError: `text` does not have this form.
    """
    head, _, dtype = text.rpartition(":")
    if not head or dtype not in _DTYPES:
        head, dtype = text, "float32"
    found = _TEXT.fullmatch(head)
    sizes = [] if found is None or found["shape"] == "scalar" else found["shape"].split("x")
    if found is None or not all(size == "?" or _is_number(size) for size in sizes):
        raise InputError(
            f"expected an input such as name:1x3x224x224, got {text!r}",
            where="--input-shape",
            hint="name:1x77:int64 for other types, ? for a size that stays free",
        )
    return TensorSpec(found["name"] or UNNAMED, tuple(None if size == "?" else int(size) for size in sizes), dtype)


def spec_text(spec: TensorSpec | InputSpec) -> str:
    """Return an input as text that `input_spec` parses."""
    sizes = "x".join("?" if size is None else str(size) for size in spec.shape) or "scalar"
    return f"{spec.name}:{sizes}" + ("" if spec.dtype == "float32" else f":{spec.dtype}")


def input_specs(given: Any) -> list[TensorSpec]:
    """Convert one input, a sequence of inputs or a mapping by name to TensorSpecs.

    Each input is a TensorSpec, a text for `input_spec`, or a sequence of sizes.

    Raises:
        InputError: An input is not valid, or several have the same name.
    """
    if isinstance(given, Mapping):
        return [_input_of(shape)._replace(name=str(name)) for name, shape in given.items()]
    several = isinstance(given, Sequence) and not isinstance(given, str | TensorSpec)
    one = not several or (given and all(map(_is_size, given)))
    found = [_input_of(item) for item in ([given] if one else given)]
    names = [spec.name for spec in found]
    if len(set(names)) < len(names):
        what = f"several inputs of the same name: {', '.join(names)}"
        raise InputError(what, where="--input-shape", hint="NAME:1x3x224x224 for each")
    return found


def _input_of(given: Any) -> TensorSpec:
    if isinstance(given, TensorSpec):
        return given
    if isinstance(given, str):
        return input_spec(given)
    if not isinstance(given, Sequence) or not given or not all(map(_is_size, given)):
        raise InputError(
            f"expected the sizes of an input, got {given!r}", where="input_shape", hint="for example (1, 3, 224, 224)"
        )
    if len(given) == 3 and given[0] != 1:
        # `irepdeploy.save` takes sizes without the batch, which users may give here by mistake.
        hint = f"{(1, *map(int, given))}: as many dimensions as forward takes"
        raise InputError(
            f"expected the batch, 1, before the other sizes, got {tuple(given)}", where="input_shape", hint=hint
        )
    return TensorSpec(UNNAMED, tuple(map(int, given)))


def _is_size(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and int(value) > 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31
