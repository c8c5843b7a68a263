"""Where a network comes from: enough to build its structure again, and to feed it.

Every network of the registry, and every one that branches were inserted into, carries an `Origin` as the attribute
``irepdeploy_origin``. A checkpoint stores it as JSON.
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
# Types of inputs that a network can be said to read.
INPUT_DTYPES = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")
_ATTRIBUTE = "irepdeploy_origin"


@dataclass(frozen=True)
class InsertedLayer:
    """A convolution that a RepBlock stands for.

    Args:
        name: the convolution's name in the network before the insertion.
        bn: name of the batch normalisation that moved into the block, or None.
        branches: names of the branches beside it.
        scaled: whether alpha and beta weigh them.
        bias: whether the convolution had a bias of its own.
        own_bn: whether the fixed operation got a batch normalisation of its own (and a bias), the network's staying
            outside.
        folded: whether `bn` was already folded into the convolution when the branches were inserted.
        fused: in a network in train state: whether this layer is a plain convolution all the same, fused before.
        off: those of `branches` that take no part.
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
    """How to build a network's structure, and what it reads and gives.

    Args:
        net: name in the registry, or None for a foreign class.
        args: keyword arguments of the registry's builder.
        factory: ``package.module:function`` that builds a foreign class, where known.
        state: what the network is made of: "train" (branches, batch normalisation) or "fused" (plain convolutions).
        layers: what was inserted.
        input_shape: of one input without its batch, most often (C, H, W), or () where unknown.
        dataset: name of the data set that it was trained on, or None.
        classes: names of the classes, or ().
        statistics: where its weights and batch-normalisation statistics come from.
        inputs: what it reads where that is not one float32 input: several, or whole numbers; in the order of
            ``forward``, the batch None; () where `input_shape` and `input_name` say it.
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
        """Every input with a free batch; () where nothing is known of them."""
        if self.inputs or not self.input_shape:
            return self.inputs
        return (TensorSpec(self.input_name, (None, *self.input_shape)),)

    @property
    def architecture(self) -> Architecture:
        """The inserted branches as an Architecture; its columns are the branches in order of first use."""
        columns: dict[str, None] = {}
        for layer in self.layers:
            columns.update(dict.fromkeys(layer.branches))
        return Architecture.from_branches({layer.name: layer.branches for layer in self.layers}, tuple(columns))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads."""
        found = asdict(self)
        # An irepdeploy of before there were several inputs reads the others.
        del found["inputs"]
        return {**found, "inputs": [spec._asdict() for spec in self.inputs]} if self.inputs else found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, where: object = None) -> Origin:
        """Read what `to_dict` gave.

        Raises:
            CheckpointError: a field is missing, unknown or of a wrong type.
        """
        try:
            fields = dict(value)
            layers = tuple(
                InsertedLayer(**{**layer, "branches": tuple(layer["branches"]), "off": tuple(layer.get("off", ()))})
                for layer in fields.pop("layers")
            )
            for name in ("input_shape", "output_names", "classes"):
                fields[name] = tuple(fields[name])
            # Checkpoints of before there were several inputs do not have it.
            fields["inputs"] = tuple(
                TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"]) for spec in fields.get("inputs", ())
            )
            origin = cls(layers=layers, **fields)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the description of the network is damaged: {error}", where=where) from None
        if origin.state not in (TRAIN, FUSED) or not isinstance(origin.args, dict):
            raise CheckpointError("the description of the network is damaged", where=where)
        if not all(isinstance(size, int) and size > 0 for size in origin.input_shape):
            raise CheckpointError(f"input shape {origin.input_shape!r} is no shape", where=where)
        if not all(_is_spec(spec) for spec in origin.inputs):
            raise CheckpointError(f"inputs {origin.inputs!r} are none", where=where)
        return origin


def origin_of(model: nn.Module) -> Origin:
    """The Origin that `model` carries, or an empty one."""
    origin = getattr(model, _ATTRIBUTE, None)
    return origin if isinstance(origin, Origin) else Origin()


def set_origin(model: nn.Module, origin: Origin | None = None, **changes: Any) -> nn.Module:
    """Make `model` carry `origin` (default: its own) with the given fields changed, and return it."""
    origin = replace(origin_of(model) if origin is None else origin, **changes)
    setattr(model, _ATTRIBUTE, origin)
    return model


def with_inputs(model: nn.Module, specs: Sequence[TensorSpec]) -> nn.Module:
    """Make `model` carry an Origin that says that it reads these; their batches are not looked at."""
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
