"""Origin: how to rebuild the structure of a network, and which inputs it takes.

Every network of the registry, and every network into which branches were inserted, has an `Origin` in its attribute
``irepdeploy_origin``. Checkpoints store it as plain containers. Its fields are checked by hand instead of with
pydantic, which is not installed on the bare machines on which training steps are timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckpointError, one_line
from irepdeploy.reparam.architecture import Architecture

__all__ = ["FUSED", "INPUT_DTYPES", "TRAIN", "InsertedLayer", "Origin", "origin_of", "set_origin", "with_inputs"]

TRAIN = "train"
FUSED = "fused"
# Dtypes that an input may have.
INPUT_DTYPES = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")
_ATTRIBUTE = "irepdeploy_origin"
# Limits on what a file may request: values of one input (256 MiB of float32), and arguments of a builder.
_MOST_VALUES, _MOST_ARGUMENTS, _DEEPEST = 1 << 26, 10_000, 20


@dataclass(frozen=True)
class InsertedLayer:
    """A convolution that was replaced by a RepBlock.

    Attributes:
        name: The convolution's name in the network before the insertion.
        bn: Name of the batch normalization that moved into the block, or None.
        branches: Names of the branches beside it.
        scaled: Whether alpha and beta scale them.
        bias: Whether the convolution had a bias.
        own_bn: Whether the fixed operation received its own batch normalization and bias, while the network's batch
            normalization stayed outside the block.
        folded: Whether `bn` was already folded into the convolution when the branches were inserted.
        fused: Whether this layer of a network in train state is a plain convolution that was fused before.
        off: Names of the inactive branches among `branches`.
    """

    name: str
    bn: str | None
    branches: tuple[str, ...]
    scaled: bool
    bias: bool = False
    own_bn: bool = False
    folded: bool = False
    fused: bool = False
    off: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Description of a network's structure, inputs and outputs.

    Attributes:
        net: Name in the registry, or None for a foreign class.
        args: Keyword arguments of the registry's builder.
        factory: Function that builds a foreign class, as ``package.module:function``, or None if unknown.
        state: "train" (branches, batch normalization) or "fused" (plain convolutions).
        layers: The inserted layers.
        input_shape: Shape of the only input without the batch axis, usually (C, H, W); () if unknown.
        input_name: Name of that input.
        output_names: Names of the outputs.
        dataset: Name of the training set, or None.
        classes: Names of the classes, or () if unknown.
        statistics: Where the weights and batch-normalization statistics come from.
        inputs: All inputs in the order of ``forward``, each with None for the batch on at most one axis. () if
            `input_shape` and `input_name` are sufficient, as for a single float32 input with the batch first.
    """

    net: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    factory: str | None = None
    state: str = TRAIN
    layers: tuple[InsertedLayer, ...] = ()
    input_shape: tuple[int, ...] = ()
    input_name: str = "input"
    output_names: tuple[str, ...] = ("logits",)
    dataset: str | None = None
    classes: tuple[str, ...] = ()
    statistics: str = "initial"
    inputs: tuple[TensorSpec, ...] = ()

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """All inputs, with None for the batch; () if they are unknown."""
        if self.inputs or not self.input_shape:
            return self.inputs
        return (TensorSpec(self.input_name, (None, *self.input_shape)),)

    @property
    def architecture(self) -> Architecture:
        """The inserted branches as an Architecture, with columns in the order of first use."""
        columns: dict[str, None] = {}
        for layer in self.layers:
            columns.update(dict.fromkeys(layer.branches))
        return Architecture.from_branches({layer.name: layer.branches for layer in self.layers}, tuple(columns))

    def taking(self, specs: Sequence[TensorSpec]) -> Origin:
        """Return a copy with these inputs, in which None is the batch."""
        first = specs[0] if len(specs) == 1 else TensorSpec("", ())
        if first.dtype == "float32" and len(first.shape) > 1 and first.shape[0] is None:
            sizes: Any = first.shape[1:]
            return replace(self, input_name=first.name, input_shape=sizes, inputs=())
        return replace(self, input_shape=(), inputs=tuple(specs))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers that `from_dict` reads."""
        found = asdict(self)
        # Older versions of irepdeploy can read files without this field.
        del found["inputs"]
        return {**found, "inputs": [spec._asdict() for spec in self.inputs]} if self.inputs else found

    @classmethod
    def from_dict(cls, value: object, *, where: object = None) -> Origin:
        """Read the result of `to_dict`.

        Raises:
            CheckpointError: A field is missing, unknown, or of a wrong type or size.
        """
        try:
            fields = _typed(cls, value)
            layers = tuple(InsertedLayer(**_typed(InsertedLayer, layer)) for layer in fields.pop("layers"))
            # Older checkpoints do not have this field.
            inputs = tuple(TensorSpec(**_typed(_Input, spec)) for spec in fields.pop("inputs", ()))
            _check_names("layer", [layer.name for layer in layers])
            _check_names("input", [spec.name for spec in inputs])
            _check_names("output", fields["output_names"])
            if fields["state"] not in (TRAIN, FUSED):
                raise ValueError(f"expected state {TRAIN} or {FUSED}")
            origin = cls(layers=layers, inputs=inputs, **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the description of the network is damaged: {one_line(error)}", where=where
            ) from None
        if not _is_shape(origin.input_shape):
            raise CheckpointError(f"expected an input shape of positive sizes, got {origin.input_shape!r}", where=where)
        for spec in origin.inputs:
            sizes = [size for size in spec.shape if size is not None]
            if spec.dtype not in INPUT_DTYPES or len(sizes) < len(spec.shape) - 1 or not _is_shape(sizes):
                raise CheckpointError(f"the input {spec.name!r} is not valid", where=where)
        return origin


def origin_of(model: nn.Module) -> Origin:
    """Return the Origin of `model`, or an empty one."""
    origin = getattr(model, _ATTRIBUTE, None)
    return origin if isinstance(origin, Origin) else Origin()


def set_origin(model: nn.Module, origin: Origin | None = None, **changes: Any) -> nn.Module:
    """Set the Origin of `model` in place, and return the model.

    Args:
        model: Any module.
        origin: The new Origin. Defaults to the present one.
        changes: Fields of `origin` to replace.
    """
    origin = replace(origin_of(model) if origin is None else origin, **changes)
    setattr(model, _ATTRIBUTE, origin)
    return model


def with_inputs(model: nn.Module, specs: Sequence[TensorSpec]) -> nn.Module:
    """Record the inputs of `model`, with None for the batch, in its Origin, and return the model."""
    return set_origin(model, origin_of(model).taking(specs))


class _Input:
    """Fields of a TensorSpec, whose own annotations use the syntax of Python 3.8."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def _typed(kind: type, value: object) -> dict[str, Any]:
    """Check the types of the fields of class `kind`, and return them with lists converted to tuples."""
    if type(value) is not dict:
        raise TypeError(f"expected fields, got {type(value).__name__}")
    found: dict[str, Any] = {}
    for key, item in value.items():
        annotation = kind.__annotations__.get(key) if type(key) is str else None
        if annotation is None:
            raise TypeError(f"unknown field {key!r:.40}" if type(key) is str else "a field without a name")
        # This also converts a torch.Size.
        found[key] = tuple(item) if isinstance(item, list | tuple) else item
        if not _FITS[annotation](found[key]):
            got = "another value" if annotation.startswith(type(item).__name__) else type(item).__name__
            raise TypeError(f"expected {key} of type {annotation}, got {got}")
    return found


def _is_text(value: object) -> bool:
    """Return whether `value` is text that can be written to a file; a lone surrogate cannot be encoded."""
    return type(value) is str and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _are(value: object, kind: type) -> bool:
    return type(value) is tuple and all(type(item) is kind for item in value)


def _is_plain(value: object) -> bool:
    """Return whether `value` is a dictionary of plain containers, numbers and text, of a reasonable size."""
    if type(value) is not dict:
        return False
    waiting: list[tuple[Any, int]] = [(value, 0)]
    for _ in range(_MOST_ARGUMENTS):
        if not waiting:
            return True
        item, depth = waiting.pop()
        if type(item) in (dict, list, tuple) and len(item) + len(waiting) < _MOST_ARGUMENTS and depth < _DEEPEST:
            if type(item) is dict and not all(type(key) is str for key in item):
                return False
            waiting.extend((part, depth + 1) for part in (item.values() if type(item) is dict else item))
        elif item is not None and type(item) not in (bool, int, float, str):
            return False
    return False


# Keyed by annotation, so that each field is declared only once.
_FITS: dict[Any, Callable[[object], bool]] = {
    "str": _is_text,
    "str | None": lambda value: value is None or _is_text(value),
    "bool": lambda value: type(value) is bool,
    "dict[str, Any]": _is_plain,
    "tuple[str, ...]": lambda value: type(value) is tuple and all(map(_is_text, value)),
    "tuple[int, ...]": lambda value: _are(value, int),
    "tuple[InsertedLayer, ...]": lambda value: _are(value, dict),
    "tuple[TensorSpec, ...]": lambda value: _are(value, dict),
    "tuple[int | None, ...]": lambda value: type(value) is tuple,
}


def _check_names(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{what} named twice")
    if what != "layer" and "" in names:
        raise ValueError(f"{what} without a name")


def _is_shape(sizes: Sequence[object]) -> bool:
    return all(type(size) is int and size > 0 for size in sizes) and math.prod(sizes) <= _MOST_VALUES  # type: ignore[arg-type]
