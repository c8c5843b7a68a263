"""Seeded random inputs of the models of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from irepdeploy.board.feeds import random_feeds
from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.console import quoted
from irepdeploy.errors import InputError, ModelError

from .opened import OpenedSubject

__all__ = ["Feeds", "check_one_shape", "check_shape_names", "feeds_of"]

Feeds = dict[str, np.ndarray]
Shapes = Mapping[str, Sequence[int]]


def feeds_of(opened: OpenedSubject, seed: int, *, batch: int | None, shapes: Shapes) -> Feeds:
    """Return standard normal inputs, the same for all models that take the same shapes in the same order."""
    if not opened.runner.inputs:
        raise ModelError("it has no input: its output is a constant", where=opened.subject.target, hint="omit it")
    fixed = {spec.name: _shape(spec, opened, batch, shapes.get(spec.name)) for spec in opened.runner.inputs}
    return random_feeds(opened.runner.inputs, seed, opened.subject.target, shapes=fixed)


def check_shape_names(opened: Sequence[OpenedSubject], shapes: Shapes) -> None:
    """Raise InputError if a shape is given for an input that no model has."""
    names = {spec.name for each in opened for spec in each.runner.inputs}
    for name in shapes:
        if name not in names:
            raise InputError(f"no model has an input {name!r}", where="--shape", hint="inputs: " + ", ".join(names))


def check_one_shape(opened: Sequence[OpenedSubject], feeds: Sequence[Feeds]) -> None:
    """Raise InputError unless all models of the run take inputs of the same shapes."""
    shapes = [" and ".join(shape_text(array.shape) for array in fed.values()) for fed in feeds]
    for each, shape in zip(opened, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"takes {shape}, but {opened[0].subject.label} takes {shapes[0]}",
                where=each.subject.label,
                hint="latencies on different inputs cannot be compared: measure them in two runs",
            )


def _shape(spec: TensorSpec, opened: OpenedSubject, batch: int | None, given: Sequence[int] | None) -> tuple[int, ...]:
    where = opened.subject.target
    own: tuple[int | None, ...] = spec.shape
    if given is not None:
        if len(given) != len(own) or any(due not in (None, size) for size, due in zip(given, own, strict=True)):
            raise InputError(
                f"input {spec.name!r} takes {shape_text(own)}, not {shape_text(tuple(given))}",
                where=where,
                hint="--shape gives every dimension, the batch first; only those shown as ? are dynamic",
            )
        own = tuple(given)
    if not own:
        raise ModelError(f"input {spec.name!r} is a scalar: without a batch there is nothing to measure", where=where)
    first, *rest = own
    if None in rest:
        sizes = "x".join("1" if index == 0 else str(size or 224) for index, size in enumerate(own))
        raise ModelError(
            f"input {spec.name!r} has dynamic dimensions: {shape_text(own)}",
            where=where,
            hint=f"set them: --shape {quoted(f'{spec.name}={sizes}')}",
        )
    if batch is not None and first not in (None, batch):
        raise InputError(
            f"its batch is {first}, not {batch}", where=where, hint="export it with --dynamic-batch, or omit it"
        )
    return (batch or 1 if first is None else first, *(size for size in rest if size is not None))
