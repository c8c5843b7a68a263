"""Reference outputs of a model, computed with ONNX Runtime on this machine, to compare the board's outputs with."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, ModelError, RunError, one_line
from irepdeploy.files import sha256
from irepdeploy.onnx_graph.input_limits import input_limits
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.verify.declared import Declared
from irepdeploy.verify.inputs import gather_inputs, signature_for
from irepdeploy.verify.onnx_process import TIMEOUT_S, OnnxProcessRunner, time_limit
from irepdeploy.verify.samples import fed, joined, named, samples_in
from irepdeploy.verify.signature import Signature

from .models import Model

__all__ = ["Reference", "reference_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reference:
    """Inputs of a model and its outputs for them, as ``.npz`` files of {tensor name: (runs, ...)}.

    Attributes:
        profiles: Minimum, optimum and maximum shape of each input with dynamic dimensions.
        limits: Smallest and largest value of integer inputs, if the model reveals them.
        groups: Origin of the inputs, from `InputGroup.to_dict`.
    """

    inputs: bytes
    expected: bytes
    batch: int
    profiles: dict[str, list[list[int]]]
    limits: dict[str, list[int]]
    groups: list[dict[str, Any]]

    @property
    def inputs_sha256(self) -> str:
        """Digest of `inputs`."""
        return sha256(self.inputs)

    @property
    def expected_sha256(self) -> str:
        """Digest of `expected`."""
        return sha256(self.expected)


def reference_of(
    model: Model,
    *,
    batch: int | None = None,
    given: str | os.PathLike[str] | None = None,
    input_shape: Sequence[TensorSpec] = (),
    seed: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> Reference:
    """Run a model on seeded random inputs and on photographs, or on `given` inputs instead of those.

    `input_shape` gives the dynamic sizes of the model; otherwise the given inputs do.
    """
    try:
        with time_limit(timeout_s), OnnxProcessRunner(model.content, precision=model.carried) as runner:
            declared = Declared.of_runner(runner, one_line(model.path))
            signature, size = _signature(model, declared, batch, given, input_shape)
            groups = gather_inputs(signature, given=given, seed=seed)
            inputs = named(joined([group.array for group in groups]), runner.inputs)
            count = max(samples_in(inputs) // size, 1)
            feeds = [fed(inputs, index * size, size) for index in range(count)]
            outputs = [runner.infer(each) for each in feeds]
    except (InputError, RunError) as error:
        # The runner received bytes and does not know the file name.
        where = None if isinstance(error, ModelError) else error.where
        where = where or one_line(model.path)
        raise type(error)(error.what, where=where, hint=error.hint) from error
    expected = _stacked(outputs)
    for name, array in expected.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                f"output {name!r} holds NaN or infinity", where=one_line(model.path), hint="fix its weights first"
            )
    free = [spec.name for spec in declared.specs if None in spec.shape]
    profiles = {name: [list(feeds[0][name].shape)] * 3 for name in free}
    limits = {spec.name: list(spec.limits) for spec in signature.inputs if spec.limits is not None}
    described = [group.to_dict() for group in groups]
    return Reference(_archive(_stacked(feeds)), _archive(expected), size, profiles, limits, described)


def _signature(
    model: Model,
    declared: Declared,
    wanted: int | None,
    given: str | os.PathLike[str] | None,
    input_shape: Sequence[TensorSpec],
) -> tuple[Signature, int]:
    """Return the inputs of a model, and its batch size."""
    where = one_line(model.path)
    if not declared.inputs:
        raise ModelError("the model has no inputs", where=where)
    found = signature_for([declared], input_shape, given)
    if found.has_whole_numbers:
        found = found.with_limits(input_limits(open_model(model.content)))
    fixed = declared.with_sizes(input_shape).batch(found.input_axes)
    if fixed is not None and wanted not in (None, fixed):
        hint = f"use --batch {fixed}, or export it with a dynamic batch"
        raise InputError(f"the model's batch size is {fixed}, got --batch {wanted}", where=where, hint=hint)
    return found, fixed or wanted or 1


def _stacked(runs: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the arrays of all runs by name, stacked along a new first dimension."""
    return {name: np.stack([np.asarray(run[name]) for run in runs]) for name in runs[0]}


def _archive(arrays: Mapping[str, Array]) -> bytes:
    # Unlike numpy.savez, this accepts any tensor name and stores no times, so that equal arrays have equal digests.
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return target.getvalue()
