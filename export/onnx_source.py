"""Open an ONNX file for export."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from irepdeploy.board.runner import TensorSpec, shape_text
from irepdeploy.data import DATASETS
from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_graph.conversion import converted
from irepdeploy.onnx_graph.model_file import file_digest, open_model, plain_content
from irepdeploy.onnx_graph.order import sort_nodes
from irepdeploy.onnx_graph.proto import constants_of, inputs_of, opset_of
from irepdeploy.onnx_graph.shapes import inferred_graph
from irepdeploy.onnx_graph.training_mode import made_inference
from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.input_files import read_inputs
from irepdeploy.verify.inputs import Given

from .request.settings import Settings

__all__ = ["OnnxSource", "declare_output_sizes", "given_onnx", "open_onnx"]

# Name that `request.parse.input_spec` gives to an input without one.
_UNNAMED = "input"


@dataclass(frozen=True)
class OnnxSource:
    """An opened ONNX file.

    Args:
        model: The file in inference form, its nodes in order, with the requested sizes declared.
        content: Bytes of the file if `model` is exactly that.
        accepted: `model` in an opset that the target accepts; the same object if it was not converted.
        changes: Description of what `accepted` differs in from the file.
        specs: Inputs as declared; None is a dynamic dimension.
        origin: Inputs with the sizes to compare at, and outputs.
    """

    model: onnx.ModelProto
    content: bytes | None
    accepted: onnx.ModelProto
    changes: tuple[str, ...]
    label: str
    facts: dict[str, Any]
    specs: tuple[TensorSpec, ...]
    origin: Origin
    opset: int
    ir_version: int


def given_onnx(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Read an ONNX file in inference form with its nodes in order; say what was changed for that."""
    model, changes = open_model(path, ordered=False), []
    if sort_nodes(model):
        changes.append("nodes sorted: some read what only later ones computed")
    changes.append(made_inference(model, os.fspath(path)))
    return model, tuple(filter(None, changes))


def open_onnx(
    path: str | os.PathLike[str],
    settings: Settings,
    given: Given | None = None,
    opsets: tuple[int, int] = (0, sys.maxsize),
) -> OnnxSource:
    """Read an ONNX file.

    `input_shape` fixes dynamic dimensions except the batch; `given` inputs determine the remaining ones for the
    comparison. A file older or newer than the range of `opsets` is converted.
    """
    label = os.fspath(path)
    model, changes = given_onnx(path)
    if not model.graph.node or not model.graph.output:
        raise ModelError("an ONNX model without nodes or outputs", where=label)
    if settings.output_names is not None:
        raise InputError("the outputs of an ONNX file cannot be renamed", where="--output-names")
    specs = _specs(model, label)
    digest, content = file_digest(path), None if changes else plain_content(path)
    if settings.inputs:
        fixed = _fixed(specs, settings.inputs, label)
        if fixed != specs:
            specs = fixed
            _declare_sizes(model, specs, label)
            content = None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # Only a hint: an unknown name means photographs.
    dataset = metadata.get("irepdeploy.dataset")
    dataset = dataset if dataset in DATASETS else None
    facts = {
        "file": label,
        "sha256": digest,
        "net": metadata.get("irepdeploy.net"),
        "factory": None,
        "state": "onnx",
        "architecture": metadata.get("irepdeploy.architecture"),
        "branches": None,
        "parameters": _parameters(model),
        "statistics": "from the ONNX file",
        "dataset": dataset,
    }
    origin = Origin(
        inputs=tuple(_compared(specs, given, label)),
        output_names=tuple(value.name for value in model.graph.output),
        dataset=dataset,
    )
    if len(origin.inputs) == 1 and origin.inputs[0].dtype == "float32" and len(origin.inputs[0].shape) > 1:
        # Descriptions of networks with a single image input are found there.
        only = origin.inputs[0]
        shape = tuple(size for size in only.shape[1:] if size is not None)
        origin = replace(origin, inputs=(), input_name=only.name, input_shape=shape)
    if not all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        # ONNX Runtime needs none; the checker and the parsers of engines do.
        declare_output_sizes(model)
        content, changes = None, (*changes, "sizes of its outputs declared")
    opset = opset_of(model)
    wanted = min(max(opset, opsets[0]), opsets[1])
    accepted = model
    if wanted != opset:
        accepted = converted(model, wanted, label)
        changes += (f"opset {opset} converted to {wanted} by onnx.version_converter {onnx.__version__}",)
    return OnnxSource(
        model, content, accepted, changes, label, facts, tuple(specs), origin, wanted, accepted.ir_version
    )


def _specs(model: onnx.ModelProto, label: str) -> list[TensorSpec]:
    found = []
    for value in inputs_of(model.graph):
        kind = value.type.tensor_type
        if not kind.elem_type or not kind.HasField("shape") or not kind.shape.dim:
            raise ModelError("expected inputs that are tensors of known rank", where=f"{label}, {value.name}")
        sizes = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        found.append(TensorSpec(value.name, sizes, dtype))
    if not found:
        raise ModelError("an ONNX model without inputs", where=label)
    return found


def _fixed(specs: Sequence[TensorSpec], asked: Sequence[TensorSpec], label: str) -> list[TensorSpec]:
    """Return the specs with dynamic dimensions as requested; a single input needs no name."""
    by_name = {spec.name: spec for spec in asked}
    if len(specs) == 1 and len(asked) == 1 and asked[0].name == _UNNAMED:
        by_name = {specs[0].name: asked[0]._replace(name=specs[0].name)}
    unknown = set(by_name) - {spec.name for spec in specs}
    if unknown:
        raise InputError(
            f"no input {min(unknown)}", where="--input-shape", hint=f"it reads {', '.join(map(str, specs))}"
        )
    # float32 is also the default.
    other = next((s for s in specs if by_name.get(s.name, s).dtype not in ("float32", s.dtype)), None)
    if other is not None:
        raise InputError(f"the file reads {other}, not {by_name[other.name].dtype}", where="--input-shape")
    found = []
    for spec in specs:
        sizes = by_name[spec.name].shape if spec.name in by_name else spec.shape
        fits = len(sizes) == len(spec.shape) and all(
            due is None or size is None or due == size for due, size in zip(spec.shape[1:], sizes[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"{shape_text(sizes)} where the file has {shape_text(spec.shape)}",
                where=f"--input-shape, {spec.name}",
                hint="only dynamic dimensions can be chosen",
            )
        merged = (due if due is not None else size for due, size in zip(spec.shape[1:], sizes[1:], strict=True))
        found.append(spec._replace(shape=(spec.shape[0], *merged)))
    return found


def _declare_sizes(model: onnx.ModelProto, specs: Sequence[TensorSpec], label: str) -> None:
    """Declare these sizes, and the sizes of the outputs that follow from them, in place."""
    by_name = {spec.name: spec for spec in specs}
    for value in model.graph.input:
        sizes = by_name[value.name].shape if value.name in by_name else ()
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            if size is not None:
                dim.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim[1:]:
            dim.Clear()
    try:
        declare_output_sizes(model)
    except ModelError as error:
        where = f"{label}, --input-shape"
        raise InputError(f"its operators do not accept these sizes: {error.what}", where=where) from error


def declare_output_sizes(model: onnx.ModelProto) -> None:
    """Declare in place the sizes of the outputs that follow from those of the inputs.

    Exporters leave them open if they cannot infer them through the operators between.
    """
    # Only the outputs are kept of what is inferred; weights would only slow it down.
    inferred = inferred_graph(model, strict=True, data_prop=True)
    found = {value.name: value.type.tensor_type.shape for value in inferred.output}
    for value in model.graph.output:
        known = found[value.name].dim
        if len(value.type.tensor_type.shape.dim) in (0, len(known)):
            del value.type.tensor_type.shape.dim[:]
            value.type.tensor_type.shape.dim.extend(known)


def _compared(specs: Sequence[TensorSpec], given: Given | None, label: str) -> list[TensorSpec]:
    """Return inputs with a dynamic batch only; other dynamic dimensions are taken from the given inputs."""
    if all(None not in spec.shape[1:] for spec in specs):
        return [spec._replace(shape=(None, *spec.shape[1:])) for spec in specs]
    if given is None:
        raise InputError(
            f"dynamic dimensions: {', '.join(map(str, specs))}",
            where=label,
            hint="give --input-shape 1xCxHxW, which fixes them, or --inputs FILE.npy",
        )
    found = read_inputs(given).array if isinstance(given, str | os.PathLike) else given
    arrays = {specs[0].name: found} if isinstance(found, np.ndarray) else dict(found)
    sized = []
    for spec in specs:
        shape = np.shape(arrays.get(spec.name, np.empty(0)))
        if len(shape) == len(spec.shape) - 1 and len(specs) == 1:
            shape = (1, *shape)
        fits = len(shape) == len(spec.shape) and all(
            due in (None, size) for due, size in zip(spec.shape[1:], shape[1:], strict=True)
        )
        if not fits:
            raise InputError(f"expected inputs {spec}, got shape {shape}", where="inputs")
        sized.append(spec._replace(shape=(None, *shape[1:])))
    return sized


def _parameters(model: onnx.ModelProto) -> int:
    """Count the floating-point numbers in the constants."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    tensors = constants_of(model.graph).values()
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type in kinds)
