"""Open an ONNX file for export."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx

from irepdeploy.board.runner import TensorSpec
from irepdeploy.data import known_dataset
from irepdeploy.errors import InputError, ModelError, counted
from irepdeploy.onnx_graph.check import check_graph
from irepdeploy.onnx_graph.conversion import converted
from irepdeploy.onnx_graph.input_limits import input_limits
from irepdeploy.onnx_graph.lowering import OLDEST, without_deprecated
from irepdeploy.onnx_graph.model_file import file_digest, open_model, plain_content
from irepdeploy.onnx_graph.order import sort_nodes
from irepdeploy.onnx_graph.proto import constants_of, drop_weight_inputs, inlined, inputs_of, nodes_of, opset_of
from irepdeploy.onnx_graph.shapes import inferred_graph
from irepdeploy.onnx_graph.sparse import make_dense
from irepdeploy.onnx_graph.training_mode import made_inference
from irepdeploy.parsing.json_text import JsonError, parse_json
from irepdeploy.reparam.origin import Origin
from irepdeploy.runtime.given_inputs import Given
from irepdeploy.verify.declared import Declared
from irepdeploy.verify.inputs import signature_for
from irepdeploy.verify.onnx_process import time_limit
from irepdeploy.verify.runners import onnx_runner
from irepdeploy.verify.signature import Signature, settled, trial

from .request.settings import Settings
from .target.target import Target

__all__ = ["OnnxSource", "Takes", "declare_output_sizes", "given_onnx", "open_onnx"]

# Before this IR version every weight must also be listed as an input, although it is a constant.
_FREE_WEIGHTS = 4


@dataclass(frozen=True)
class Takes:
    """ONNX features that a target accepts: opsets, operators (None: all), and reductions with axes as an input."""

    opsets: tuple[int, int]
    operators: frozenset[str] | None = None
    reduce_inputs: bool = True

    @classmethod
    def of(cls, target: Target, low: int = 0) -> Self:
        """Return the features of a target, in opsets from `low` on."""
        least, most = target.allowed_opsets
        return cls((max(least, low), most), target.operators, "Reduce with axes as input" not in target.forbidden)

    @property
    def is_limited(self) -> bool:
        """Whether some features of these opsets are not accepted."""
        return self.operators is not None or not self.reduce_inputs


@dataclass(frozen=True)
class OnnxSource:
    """An opened ONNX file.

    Args:
        model: The file in inference form, its nodes in order, with the requested sizes declared.
        content: The file if it equals `model`: its bytes, or its path if it has external weights.
        accepted: `model` in an opset that the target accepts; the same object if it was not converted.
        changes: Description of the differences between `accepted` and the file.
        specs: Inputs as declared; None is a dynamic dimension.
        origin: Outputs, and inputs with the sizes used in comparisons.
        signature: Inputs of the comparisons and their batch dimensions.
    """

    model: onnx.ModelProto
    content: bytes | Path | None
    accepted: onnx.ModelProto
    changes: tuple[str, ...]
    label: str
    facts: dict[str, Any]
    specs: tuple[TensorSpec, ...]
    origin: Origin
    opset: int
    ir_version: int
    signature: Signature


def given_onnx(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Read an ONNX file in inference form with its nodes in order; also return the changes that this needed."""
    model, changes = open_model(path, ordered=False), []
    if model.functions:
        model = inlined(model)
        changes.append("functions written out")
    if count := make_dense(model, os.fspath(path)):
        changes.append(f"{counted(count, 'sparse initializer')} written as dense")
    if model.ir_version >= _FREE_WEIGHTS and (count := drop_weight_inputs(model.graph)):
        changes.append(f"{counted(count, 'weight')} listed among the inputs made constant")
    if sort_nodes(model):
        changes.append("nodes sorted: some read what only later ones computed")
    check_graph(model, os.fspath(path))
    if count := without_deprecated(model, os.fspath(path)):
        changes.append(f"{count} GroupNormalization, deprecated in opset {opset_of(model)}, written as other operators")
    changes.append(made_inference(model, os.fspath(path)))
    return model, tuple(filter(None, changes))


def open_onnx(
    path: str | os.PathLike[str],
    settings: Settings,
    given: Given | None = None,
    takes: Takes | None = None,
) -> OnnxSource:
    """Read an ONNX file.

    `input_shape` fixes dynamic dimensions, including the batch unless its range is given; `given` inputs determine the
    remaining ones for the comparison. A file that the target does not accept is converted as far as it `takes`.
    """
    label = os.fspath(path)
    model, changes = given_onnx(path)
    if not model.graph.node or not model.graph.output:
        raise ModelError("an ONNX model without nodes or outputs", where=label)
    if settings.output_names is not None:
        raise InputError("the outputs of an ONNX file cannot be renamed", where="--output-names")
    declared = _declared(model, label)
    fixed = declared.with_sizes(settings.inputs, but_batch=settings.dynamic_batch is not None)
    digest = file_digest(path)
    content: bytes | Path | None = None if changes else plain_content(path) or Path(path)
    signature = _signature(model, declared, settings, given)
    if fixed.specs != declared.specs:
        _declare_sizes(model, fixed.specs, label)
        content = None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    # Only a hint: for an unknown name, photographs are used.
    dataset = known_dataset(metadata.get("irepdeploy.dataset"))
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
        inputs=tuple(TensorSpec(spec.name, spec.shape, spec.dtype) for spec in signature.inputs),
        output_names=tuple(value.name for value in model.graph.output),
        dataset=dataset,
        classes=_classes(metadata.get("irepdeploy.classes")),
    )
    only = signature.inputs[0]
    if len(signature.inputs) == 1 and only.dtype == "float32" and only.axis == 0 and only.sample:
        # Descriptions of networks with a single image input are found there.
        origin = replace(origin, inputs=(), input_name=only.name, input_shape=only.sample)
    if not all(map(_has_shape, model.graph.output)):
        # ONNX Runtime does not need output sizes, but the checker and the parsers of engines do.
        declare_output_sizes(model)
        _declare_ranks(model, label, signature)
        content, changes = None, (*changes, "sizes of its outputs declared")
    accepted, note = _accepted(model, takes, label)
    changes += (note,) if note else ()
    return OnnxSource(
        model,
        content,
        accepted,
        changes,
        label,
        facts,
        tuple(fixed.specs),
        origin,
        opset_of(accepted),
        accepted.ir_version,
        signature,
    )


def _accepted(model: onnx.ModelProto, takes: Takes | None, label: str) -> tuple[onnx.ModelProto, str]:
    """Return the model in a form that the target accepts (the same object if unchanged), and the changes."""
    opset = opset_of(model)
    low, high = takes.opsets if takes else (opset, opset)
    wanted = min(max(opset, low), high)
    if takes is None or (wanted == opset and (opset < OLDEST or not takes.is_limited)):
        return model, ""
    found = converted(model, wanted, label, operators=takes.operators, reduce_inputs=takes.reduce_inputs)
    if wanted > opset:
        return found, f"opset {opset} converted to {wanted} by onnx.version_converter {onnx.__version__}"
    before, after = (Counter(node.op_type for node in nodes_of(each)) for each in (model, found))
    gone = ", ".join(f"{count} {kind}" for kind, count in sorted((before - after).items()))
    gone = f"{gone} written as other operators" if gone else ""
    if wanted < opset:
        return found, f"opset {opset} written as {wanted}{f'; {gone}' if gone else ''}"
    return (found, gone) if gone else (model, "")


def _declared(model: onnx.ModelProto, label: str) -> Declared:
    inputs, dtypes = {}, {}
    for value in inputs_of(model.graph):
        kind = value.type.tensor_type
        if not kind.elem_type or not kind.HasField("shape"):
            raise ModelError("expected inputs that are tensors of known rank", where=f"{label}, {value.name}")
        inputs[value.name] = _dimensions(kind.shape)
        dtypes[value.name] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    if not inputs:
        raise ModelError("an ONNX model without inputs", where=label)
    outputs = {value.name: value.type.tensor_type for value in model.graph.output}
    known = {name: _dimensions(kind.shape) if kind.HasField("shape") else None for name, kind in outputs.items()}
    return Declared(label, inputs, dtypes, known)


def _dimensions(shape: onnx.TensorShapeProto) -> tuple[int | str | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in shape.dim)


def _classes(text: str | None) -> tuple[str, ...]:
    """Return the names of the classes in the metadata of a file; () if there are none."""
    try:
        found = parse_json((text or "[]").encode())
    except JsonError:
        return ()
    return tuple(found) if isinstance(found, list) and all(isinstance(name, str) for name in found) else ()


def _signature(model: onnx.ModelProto, declared: Declared, settings: Settings, given: Given | None) -> Signature:
    """Return the inputs of the comparisons. The file is run if it does not declare where its outputs have the batch."""
    found = signature_for([declared], settings.inputs, given)
    if found.has_whole_numbers:
        found = found.with_limits(input_limits(model))
    if settings.dynamic_batch is not None and None not in found.axes.values():
        found = replace(found, size=None)
    if declared.batch(found.input_axes) is not None or all(name in found.outputs for name in declared.outputs):
        return found
    try:
        with time_limit(settings.timeout_s), onnx_runner(declared.label) as runner:
            return settled(found, declared.outputs, runner.infer)
    except ModelError as error:
        raise type(error)(error.what, where=declared.label, hint=error.hint) from error


def _declare_sizes(model: onnx.ModelProto, specs: Sequence[TensorSpec], label: str) -> None:
    """Declare these input sizes, and the resulting output sizes, in place."""
    by_name = {spec.name: spec for spec in specs}
    for value in model.graph.input:
        sizes = by_name[value.name].shape if value.name in by_name else ()
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=False):
            if size is not None:
                dim.dim_value = size
    del model.graph.value_info[:]
    static = all(None not in spec.shape for spec in specs)
    for value in model.graph.output:
        # Keep declared numbers that cannot be inferred, as after an operator that is not part of ONNX.
        for dim in value.type.tensor_type.shape.dim[0 if static else 1 :]:
            if not dim.dim_value:
                dim.Clear()
    try:
        declare_output_sizes(model)
    except ModelError as error:
        where = f"{label}, --input-shape"
        raise InputError(f"its operators do not accept these sizes: {error.what}", where=where) from error


def declare_output_sizes(model: onnx.ModelProto) -> None:
    """Declare output sizes in place, as inferred from the input sizes.

    Exporters leave them open if they cannot infer them through the operators in between.
    """
    outputs = model.graph.output
    declared = {value.name: copy.deepcopy(value.type.tensor_type.shape) for value in outputs if _has_shape(value)}
    for value in model.graph.output:
        # A file may declare another rank than its operators produce; ONNX Runtime follows the operators.
        value.type.tensor_type.ClearField("shape")
    try:
        # Only inferred outputs are kept, so weights are left out, which would slow this down.
        inferred = inferred_graph(model, strict=True, data_prop=True)
        found = {value.name: value.type.tensor_type.shape for value in inferred.output if _has_shape(value)}
    finally:
        for value in outputs:
            if value.name in declared:
                value.type.tensor_type.shape.CopyFrom(declared[value.name])
    for value in outputs:
        sizes, known = value.type.tensor_type.shape, found.get(value.name)
        if known is None:
            continue
        if not _has_shape(value) or len(known.dim) != len(sizes.dim):
            sizes.CopyFrom(known)
        for dim, size in zip(sizes.dim, known.dim, strict=True):
            if size.WhichOneof("value") is not None:
                dim.CopyFrom(size)


def _declare_ranks(model: onnx.ModelProto, label: str, signature: Signature) -> None:
    """Declare in place the rank of outputs after operators that shape inference does not know."""
    lacking = [value for value in model.graph.output if not _has_shape(value)]
    if not lacking:
        return
    with onnx_runner(label) as runner:
        outputs = runner.infer(trial(signature, signature.size or 1))
    for value in lacking:
        value.type.tensor_type.shape.SetInParent()
        for _ in range(outputs[value.name].ndim):
            value.type.tensor_type.shape.dim.add()


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.HasField("shape")


def _parameters(model: onnx.ModelProto) -> int:
    """Count the floating-point numbers in the constants."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    tensors = constants_of(model.graph).values()
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type in kinds)
