"""Inputs of the models of a run, either seeded random values or given ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from irepdeploy.board.feeds import random_feeds
from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import InputError, ModelError
from irepdeploy.verify.declared import Declared
from irepdeploy.verify.input_spec import UNNAMED
from irepdeploy.verify.inputs import gather_inputs, signature_for
from irepdeploy.verify.samples import fed, named
from irepdeploy.verify.signature import Signature

from .opened import OpenedSubject
from .request import BenchRequest

__all__ = ["Feeds", "check_one_shape", "check_shape_names", "feeds_of"]


@dataclass(frozen=True)
class Feeds:
    """The inputs of one inference.

    Attributes:
        batch: Number of samples; 1 if no input has a batch.
        source: Origin of the values.
    """

    arrays: dict[str, np.ndarray]
    batch: int
    source: str

    @property
    def shape(self) -> list[int]:
        """Shape of the first input that is not a single number."""
        return next((list(array.shape) for array in self.arrays.values() if array.ndim), [1])

    @property
    def facts(self) -> dict[str, Any]:
        """Shapes by name if there are several inputs, for the record."""
        shapes = {name: list(array.shape) for name, array in self.arrays.items()}
        return {"input_shapes": shapes} if len(shapes) > 1 else {}


def feeds_of(opened: OpenedSubject, request: BenchRequest, batch: int | None) -> Feeds:
    """Return inputs, which are the same for all models that take the same shapes in the same order.

    Unless the request gives inputs, floats are standard normal, and integers lie within the limits that the model
    reveals.
    """
    where = opened.subject.target
    if not opened.runner.inputs:
        raise ModelError("the model has no input, so its output is constant", where=where, hint="omit it")
    signature, size = _signature(opened, request, batch)
    if request.inputs is not None:
        # The first group is random.
        *_, group = gather_inputs(signature, given=request.inputs)
        return Feeds(fed(named(group.array, opened.runner.inputs), 0, size), size, group.name)
    specs = [TensorSpec(spec.name, spec.shape, spec.dtype).with_batch(size) for spec in signature.inputs]
    limits = {spec.name: spec.limits for spec in signature.inputs if spec.limits is not None}
    source = ", ".join(dict.fromkeys(spec.values for spec in signature.inputs))
    return Feeds(random_feeds(specs, request.seed, where, limits=limits), size, source)


def check_shape_names(opened: Sequence[OpenedSubject], request: BenchRequest) -> None:
    """Raise InputError if a shape is given for an input that no model has."""
    names = dict.fromkeys(spec.name for each in opened for spec in each.runner.inputs)
    # A shape without a name is that of the only input.
    alone = len(request.shapes) == 1 and any(len(each.runner.inputs) == 1 for each in opened)
    for spec in request.shapes:
        if spec.name not in names and not (alone and spec.name == UNNAMED):
            unnamed = f"{shape_text(spec.shape)} does not name one of the inputs"
            what = unnamed if spec.name == UNNAMED else f"no model has an input {spec.name!r}"
            raise InputError(what, where="--input-shape", hint="inputs: " + ", ".join(names))


def check_one_shape(opened: Sequence[OpenedSubject], feeds: Sequence[Feeds]) -> None:
    """Raise InputError unless all models of the run take inputs of the same shapes."""
    shapes = [" and ".join(shape_text(array.shape) for array in fed.arrays.values()) for fed in feeds]
    for each, shape in zip(opened, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"takes {shape}, but {opened[0].subject.label} takes {shapes[0]}",
                where=each.subject.label,
                hint="latencies on different inputs cannot be compared: measure them in two runs",
            )


def _signature(opened: OpenedSubject, request: BenchRequest, batch: int | None) -> tuple[Signature, int]:
    """Return the inputs of a model, and the size of its batch."""
    declared = Declared.of_runner(opened.runner, opened.subject.target)
    asked = [spec for spec in request.shapes if spec.name in declared.inputs]
    if len(declared.inputs) == len(request.shapes) == 1 and request.shapes[0].name == UNNAMED:
        asked = list(request.shapes)
    found = signature_for([declared], asked, request.inputs)
    fixed = declared.with_sizes(asked).batch(found.input_axes)
    if all(spec.axis is None for spec in found.inputs):
        fixed = 1
    if batch is not None and fixed not in (None, batch):
        raise InputError(
            f"its batch is {fixed}, not {batch}",
            where=declared.label,
            hint="export it with --dynamic-batch, or omit it",
        )
    size = fixed or batch or 1
    return replace(found, size=size).with_limits(opened.limits), size
