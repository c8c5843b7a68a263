"""Reference outputs of a model on ONNX Runtime here, for comparison with the board's."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import InputError, ModelError, RunError, one_line
from irepdeploy.files import sha256
from irepdeploy.verify.inputs import gather_inputs, joined, named
from irepdeploy.verify.onnx_process import TIMEOUT_S, OnnxProcessRunner, time_limit

from .models import Model

__all__ = ["Reference", "reference_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reference:
    """Inputs of a model and its outputs for them, as ``.npz`` files of {tensor name: (N, ...)}.

    Attributes:
        profiles: Minimum, optimum and maximum shape of each input with a dynamic batch.
        groups: Where the inputs come from, by `InputGroup.to_dict`.
    """

    inputs: bytes
    expected: bytes
    batch: int
    profiles: dict[str, list[list[int]]]
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
    seed: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> Reference:
    """Run a model on seeded random inputs and on photographs, or on `given` inputs instead of those."""
    try:
        with time_limit(timeout_s), OnnxProcessRunner(model.content, precision=model.carried) as runner:
            specs = runner.inputs
            size = _batch(model, specs, batch)
            groups = gather_inputs(
                [TensorSpec(s.name, (None, *s.shape[1:]), s.dtype) for s in specs], given=given, seed=seed
            )
            inputs = _whole_batches(named(joined([group.array for group in groups]), specs), size)
            rows = len(next(iter(inputs.values())))
            parts = [
                runner.infer({name: array[begin : begin + size] for name, array in inputs.items()})
                for begin in range(0, rows, size)
            ]
    except (InputError, RunError) as error:
        # The runner got bytes and does not know the file.
        where = None if isinstance(error, ModelError) else error.where
        where = where or one_line(model.path)
        raise type(error)(error.what, where=where, hint=error.hint) from error
    expected = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    for name, array in expected.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                f"output {name!r} holds NaN or infinity", where=one_line(model.path), hint="fix its weights first"
            )
    profiles = {
        spec.name: [[size, *map(int, inputs[spec.name].shape[1:])]] * 3 for spec in specs if spec.shape[0] is None
    }
    return Reference(_archive(inputs), _archive(expected), size, profiles, [group.to_dict() for group in groups])


def _batch(model: Model, specs: list[TensorSpec], wanted: int | None) -> int:
    where = one_line(model.path)
    if not specs:
        raise ModelError("the model has no inputs", where=where)
    for spec in specs:
        if not spec.shape or None in spec.shape[1:]:
            raise ModelError(
                f"input {spec.name!r} has dynamic dimensions: {shape_text(spec.shape)}",
                where=where,
                hint="only the batch may be: fix the others, python -m onnxruntime.tools.make_dynamic_shape_fixed",
            )
    fixed = {spec.shape[0] for spec in specs} - {None}
    if len(fixed) > 1:
        raise ModelError("its inputs have different batch sizes", where=where)
    size = fixed.pop() if fixed else None
    if size is not None and wanted not in (None, size):
        hint = f"use --batch {size}, or export it with a dynamic batch"
        raise InputError(f"the model's batch size is {size}, got --batch {wanted}", where=where, hint=hint)
    return size or wanted or 1


def _whole_batches(inputs: dict[str, Array], size: int) -> dict[str, Array]:
    """Return as many whole batches as there are, at least one; too few inputs are repeated."""
    rows = min(map(len, inputs.values()))
    kept = np.arange(max(rows // size, 1) * size) % rows
    return {name: array[kept] for name, array in inputs.items()}


def _archive(arrays: Mapping[str, Array]) -> bytes:
    # Unlike numpy.savez: any tensor name is valid, and without times equal arrays have equal digests.
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return target.getvalue()
