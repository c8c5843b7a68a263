"""Reference: what ONNX Runtime gives here for a model, which the board's outputs are held against."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import sha256
from irepdeploy.verify.inputs import gather_inputs, joined, named

from .models import Model
from .ssh_failure import one_line

__all__ = ["Reference", "reference_of"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reference:
    """Inputs of a model and what it gives for them, as ``.npz`` files of {tensor name: (N, ...)}.

    Args:
        batch: how many inputs the model takes at once.
        profiles: least, best and largest shape of each input whose batch is free.
        groups: where the inputs are from, as `InputGroup.to_dict` says it.
    """

    inputs: bytes
    expected: bytes
    batch: int
    profiles: dict[str, list[list[int]]]
    groups: list[dict[str, Any]]

    @property
    def inputs_sha256(self) -> str:
        """Of `inputs`."""
        return sha256(self.inputs)

    @property
    def expected_sha256(self) -> str:
        """Of `expected`."""
        return sha256(self.expected)


def reference_of(
    model: Model, *, batch: int | None = None, given: str | os.PathLike[str] | None = None, seed: int = 0
) -> Reference:
    """Run `model` on seeded random inputs and on real ones, or those given in their place.

    Args:
        batch: of a model whose batch is free, by default 1.
        given: ``.npy``, ``.npz`` or a folder, as `irepdeploy.verify.inputs` reads them.

    Raises:
        InputError: the model's shapes are free or its batch is another one, ONNX Runtime cannot run it, its outputs are
            not finite, or what is given does not fit.
    """
    try:
        with OrtRunner(model.content, precision=model.carried) as runner:
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
    except InputError as error:
        # The runner was given bytes, and knows no file.
        where = None if isinstance(error, ModelError) else error.where
        where = where or one_line(model.path)
        raise type(error)(error.what, where=where, hint=error.hint) from error
    expected = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    for name, array in expected.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                f"output {name!r} holds NaN or infinity", where=one_line(model.path), hint="mend its weights first"
            )
    profiles = {
        spec.name: [[size, *map(int, inputs[spec.name].shape[1:])]] * 3 for spec in specs if spec.shape[0] is None
    }
    return Reference(_archive(inputs), _archive(expected), size, profiles, [group.to_dict() for group in groups])


def _batch(model: Model, specs: list[TensorSpec], wanted: int | None) -> int:
    where = one_line(model.path)
    if not specs:
        raise ModelError("it takes no input", where=where)
    for spec in specs:
        if not spec.shape or None in spec.shape[1:]:
            raise ModelError(
                f"input {spec.name!r} has free dimensions: {shape_text(spec.shape)}",
                where=where,
                hint="only the batch may be free: fix the others, python -m onnxruntime.tools.make_dynamic_shape_fixed",
            )
    fixed = {spec.shape[0] for spec in specs} - {None}
    if len(fixed) > 1:
        raise ModelError("its inputs have different batches", where=where)
    size = fixed.pop() if fixed else None
    if size is not None and wanted not in (None, size):
        raise InputError(f"its batch is {size}", where=where, hint=f"--batch {size}, or export it with a free batch")
    return size or wanted or 1


def _whole_batches(inputs: dict[str, Array], size: int) -> dict[str, Array]:
    """As many whole batches as there are, at least one: too few inputs are repeated."""
    rows = min(map(len, inputs.values()))
    kept = np.arange(max(rows // size, 1) * size) % rows
    return {name: array[kept] for name, array in inputs.items()}


def _archive(arrays: Mapping[str, Array]) -> bytes:
    # Not numpy.savez, whose own parameters a tensor may be named like. No times in it: same arrays, same digest.
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    return target.getvalue()
