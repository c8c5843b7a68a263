"""Origin: how to rebuild a network's structure, and what inputs it takes.

Every network of the registry, and every network that branches were inserted into, has an `Origin` in its attribute
``irepdeploy_origin``. A checkpoint stores it as plain containers. Checked by hand, because the suites that time a step
on a bare machine import no pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckpointError
from irepdeploy.reparam.architecture import Architecture

__all__ = ["FUSED", "INPUT_DTYPES", "TRAIN", "InsertedLayer", "Origin", "origin_of", "set_origin", "with_inputs"]

TRAIN = "train"
FUSED = "fused"
# Dtypes that an input may have.
INPUT_DTYPES = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")
_ATTRIBUTE = "irepdeploy_origin"


@dataclass(frozen=True)
class InsertedLayer:
    """A convolution that a RepBlock replaced.

    Attributes:
        name: The convolution's name in the network before the insertion.
        bn: Name of the batch normalisation that moved into the block, or None.
        branches: Names of the branches beside it.
        scaled: Whether alpha and beta scale them.
        bias: Whether the convolution had a bias of its own.
        own_bn: Whether the fixed operation got a batch normalisation (and a bias) of its own, and the network's stayed
            outside.
        folded: Whether `bn` was already folded into the convolution when the branches were inserted.
        fused: Whether this layer of a network in train state is a plain convolution, fused before.
        off: Those of `branches` that are inactive.
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
    """How to build a network's structure, and its inputs and outputs.

    Attributes:
        net: Name in the registry, or None for a foreign class.
        args: Keyword arguments of the registry's builder.
        factory: ``package.module:function`` that builds a foreign class, if known.
        state: "train" (branches, batch normalisation) or "fused" (plain convolutions).
        layers: Inserted layers.
        input_shape: Shape of the one input without its batch, usually (C, H, W); () if unknown.
        input_name: Name of that input.
        output_names: Names of the outputs.
        dataset: Name of the training set, or None.
        classes: Names of the classes, or ().
        statistics: Where its weights and batch-normalisation statistics come from.
        inputs: Every input in the order of ``forward``, with batch None, if there are several or one is not float32; ()
            if `input_shape` and `input_name` describe the only one.
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
        """Every input with a dynamic batch; () if they are unknown."""
        if self.inputs or not self.input_shape:
            return self.inputs
        return (TensorSpec(self.input_name, (None, *self.input_shape)),)

    @property
    def architecture(self) -> Architecture:
        """The inserted branches as an Architecture, with columns in order of first use."""
        columns: dict[str, None] = {}
        for layer in self.layers:
            columns.update(dict.fromkeys(layer.branches))
        return Architecture.from_branches({layer.name: layer.branches for layer in self.layers}, tuple(columns))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for `from_dict`."""
        found = asdict(self)
        # Older versions read files without it.
        del found["inputs"]
        return {**found, "inputs": [spec._asdict() for spec in self.inputs]} if self.inputs else found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, where: object = None) -> Origin:
        """Read the result of `to_dict`."""
        try:
            fields = dict(value)
            layers = tuple(
                InsertedLayer(**{**layer, "branches": tuple(layer["branches"]), "off": tuple(layer.get("off", ()))})
                for layer in fields.pop("layers")
            )
            for name in ("input_shape", "output_names", "classes"):
                fields[name] = tuple(fields[name])
            # Older checkpoints do not have it.
            fields["inputs"] = tuple(
                TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in fields.get("inputs", ())
            )
            origin = cls(layers=layers, **fields)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the description of the network is damaged: {error}", where=where) from None
        if origin.state not in (TRAIN, FUSED) or not isinstance(origin.args, dict):
            raise CheckpointError("the description of the network is damaged", where=where)
        if not all(isinstance(size, int) and size > 0 for size in origin.input_shape):
            raise CheckpointError(f"expected an input shape of positive sizes, got {origin.input_shape!r}", where=where)
        if not all(_is_spec(spec) for spec in origin.inputs):
            raise CheckpointError(f"inputs {origin.inputs!r} are not valid", where=where)
        return origin


def origin_of(model: nn.Module) -> Origin:
    """Return the Origin of `model`, or an empty one."""
    origin = getattr(model, _ATTRIBUTE, None)
    return origin if isinstance(origin, Origin) else Origin()


def set_origin(model: nn.Module, origin: Origin | None = None, **changes: Any) -> nn.Module:
    """Give `model` the Origin `origin` (default: its own) with these fields changed, and return the model."""
    origin = replace(origin_of(model) if origin is None else origin, **changes)
    setattr(model, _ATTRIBUTE, origin)
    return model


def with_inputs(model: nn.Module, specs: Sequence[TensorSpec]) -> nn.Module:
    """Record in the Origin of `model` that it takes these inputs, of any batch size; return the model."""
    inputs = tuple(TensorSpec(spec.name, (None, *spec.shape[1:]), spec.dtype) for spec in specs)
    if len(inputs) == 1 and inputs[0].dtype == "float32" and len(inputs[0].shape) > 1:
        return set_origin(model, input_name=inputs[0].name, input_shape=inputs[0].shape[1:], inputs=())
    return set_origin(model, input_shape=(), inputs=inputs)


def _is_spec(spec: TensorSpec) -> bool:
    sizes = spec.shape[1:]
    return (
        isinstance(spec.name, str)
        and spec.dtype in INPUT_DTYPES
        and spec.shape[:1] == (None,)
        and all(isinstance(size, int) and size > 0 for size in sizes)
    )
