"""Where a network comes from: enough to build its structure again, and to feed it.

Every network of the registry, and every one that branches were inserted into, carries an `Origin` as the attribute
``irepdeploy_origin``. A checkpoint stores it as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from irepdeploy.arch import Architecture
from irepdeploy.errors import CheckpointError

__all__ = ["FUSED", "TRAIN", "InsertedLayer", "Origin", "origin_of", "set_origin"]

TRAIN = "train"
FUSED = "fused"
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
        input_shape: (C, H, W) of one input, or () where unknown.
        dataset: name of the data set that it was trained on, or None.
        classes: names of the classes, or ().
        statistics: where its weights and batch-normalisation statistics come from.
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

    @property
    def architecture(self) -> Architecture:
        """The inserted branches as an Architecture; its columns are the branches in order of first use."""
        columns: dict[str, None] = {}
        for layer in self.layers:
            columns.update(dict.fromkeys(layer.branches))
        return Architecture.from_branches({layer.name: layer.branches for layer in self.layers}, tuple(columns))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads."""
        return asdict(self)

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
            origin = cls(layers=layers, **fields)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the description of the network is damaged: {error}", where=where) from None
        if origin.state not in (TRAIN, FUSED) or not isinstance(origin.args, dict):
            raise CheckpointError("the description of the network is damaged", where=where)
        if not all(isinstance(size, int) and size > 0 for size in origin.input_shape):
            raise CheckpointError(f"input shape {origin.input_shape!r} is no shape", where=where)
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
