"""Write a network for a target, falling back to torch's exporters for operators that `onnx_from_torch` lacks.

The result of torch's exporters is verified: the opset is read from the file, a dynamic batch is run with several sizes,
and `tidy` folds batch normalization, renames numbered weights and removes paths of this machine.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import IrepdeployError, MissingError, ModelError
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import opset_of
from irepdeploy.runtime.quiet_exporter import exporter_reason, given_inputs_alone, quiet_exporter
from irepdeploy.runtime.torch_runner import first_line, flattened

from ..target.target import Target
from .graph import BATCH, NeedsOpset
from .onnx_from_torch import named_outputs, onnx_from_torch, refuse_what_never_works, serialized
from .tidy import tidy
from .tracer import ValuesDecide

__all__ = ["DYNAMO", "OWN", "TORCHSCRIPT", "Written", "onnx_by_torch", "write_onnx"]

OWN = "irepdeploy"
TORCHSCRIPT = "torch.onnx (TorchScript)"
DYNAMO = "torch.onnx (dynamo)"

# Name of the dynamic size, by tensor and axis.
Axes = dict[str, dict[int, str]]
# The lowest opset of the dynamo exporter, which rarely converts to an earlier one.
_DYNAMO_OPSET = 18
# Retried if the TorchScript exporter lacks an operator in the target's opset. From 17 on it writes layer normalization
# as a single operator, which TensorRT 8.5 does not support.
_LATER_OPSET = 16
_NO_ONNXSCRIPT = "onnxscript is not installed (pip install 'irepdeploy[dynamo]')"


@dataclass(frozen=True)
class Written:
    """An ONNX model, its writer (`OWN`, `TORCHSCRIPT` or `DYNAMO`) and opset, and why `OWN` could not write it."""

    model: onnx.ModelProto
    writer: str
    opset: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a certificate."""
        return {"writer": self.writer, "opset": self.opset, "reason": self.reason}


def write_onnx(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str] | None = None,
    *,
    target: Target,
    metadata: Mapping[str, str] | None = None,
) -> Written:
    """Write a network for a target, using `onnx_from_torch` or else one of torch's exporters."""
    refuse_what_never_works(model)
    try:
        own = onnx_from_torch(
            model, inputs, outputs, opset=target.opset, ir_version=target.ir_version, metadata=metadata
        )
        return Written(own, OWN, target.opset)
    except ValuesDecide:
        raise
    except NeedsOpset as refused:
        if refused.opset <= target.allowed_opsets[1]:
            later = replace(target, opset=refused.opset)
            return write_onnx(model, inputs, outputs, target=later, metadata=metadata)
        raise
    except ModelError as refused:
        try:
            return onnx_by_torch(model, inputs, outputs, target=target, metadata=metadata, reason=refused.line)
        except (ModelError, MissingError) as error:
            raise ModelError(
                refused.what, where=refused.where, hint=f"torch's exporter failed too: {error.what}"
            ) from error


@torch.no_grad()
def onnx_by_torch(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str] | None = None,
    *,
    target: Target,
    metadata: Mapping[str, str] | None = None,
    reason: str | None = None,
) -> Written:
    """Write a network with torch's TorchScript exporter, which honours the opset, or else with the dynamo exporter.

    The dynamo exporter requires onnxscript and a target that supports opset 18. `reason` says why `onnx_from_torch` was
    not used.
    """
    refuse_what_never_works(model)
    free = any(None in spec.shape for spec in inputs)
    # Both exporters treat a batch of 1 as static.
    examples = _examples(inputs, 2)
    try:
        returned = model(*examples)
    except Exception as error:  # a foreign forward
        raise ModelError(f"forward fails: {first_line(error)}", where=type(model).__name__) from error
    names = named_outputs(returned, torch.Tensor, outputs, type(model).__name__)
    plain = isinstance(returned, torch.Tensor) or (
        isinstance(returned, tuple) and all(isinstance(item, torch.Tensor) for item in returned)
    )
    network = model if plain else _Flat(model).eval()
    others = list(flattened(model(*_examples(inputs, 3)))) if free else list(flattened(returned))
    shapes = [
        [x if x == y else BATCH for x, y in zip(a.shape, b.shape, strict=True)]
        for a, b in zip(flattened(returned), others, strict=True)
    ]
    free_axes = {spec.name: {spec.shape.index(None): BATCH} for spec in inputs if None in spec.shape}
    for name, sizes in zip(names, shapes, strict=True):
        if BATCH in sizes:
            free_axes[name] = {place: BATCH for place, size in enumerate(sizes) if size == BATCH}
    proto, writer, opset = _exported(network, examples, inputs, names, target, free_axes)
    tidy(proto, ir_version=target.ir_version, prefix="" if plain else "model")
    for key in sorted(metadata or {}):
        proto.metadata_props.add(key=key, value=(metadata or {})[key])
    found = opset_of(proto)
    if found != opset:
        raise ModelError(f"{writer}: expected opset {opset}, got {found}", where=type(model).__name__)
    for value, sizes in zip(proto.graph.output, shapes, strict=True):
        # The exporters leave sizes they cannot infer unset.
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, sizes))
    if free:
        _try_batches(proto, model, inputs, names)
    return Written(proto, writer, opset, reason)


class _Flat(nn.Module):
    """A network with its outputs flattened to a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(flattened(self.model(*args)))


def _exported(
    network: nn.Module,
    examples: Sequence[torch.Tensor],
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
    target: Target,
    free_axes: Axes,
) -> tuple[onnx.ModelProto, str, int]:
    low, high = target.allowed_opsets
    failures: list[str] = []
    ways = dict.fromkeys(
        [(TORCHSCRIPT, target.opset), (TORCHSCRIPT, min(high, _LATER_OPSET)), (DYNAMO, max(_DYNAMO_OPSET, low))]
    )
    for writer, opset in ways:
        if writer == DYNAMO and (opset > high or importlib.util.find_spec("onnxscript") is None):
            missing = _NO_ONNXSCRIPT if opset <= high else f"target {target.name} does not support opset {opset}"
            failures.append(f"{writer}: {missing}")
            continue
        export = _by_torchscript if writer == TORCHSCRIPT else _by_dynamo
        try:
            with quiet_exporter():
                return export(network, examples, inputs, names, free_axes, opset), writer, opset
        except Exception as error:  # whatever the exporter raises
            failures.append(f"{writer}, opset {opset}: {exporter_reason(error)}")
    raise ModelError("; ".join(failures), where=type(network).__name__)


def _by_torchscript(
    network: nn.Module,
    examples: Sequence[torch.Tensor],
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
    free_axes: Axes,
    opset: int,
) -> onnx.ModelProto:
    buffer: Any = io.BytesIO()
    options = _options(inputs, names, opset)
    with given_inputs_alone(network):
        torch.onnx.export(network, tuple(examples), buffer, dynamo=False, dynamic_axes=free_axes or None, **options)
    return open_model(buffer.getvalue())


def _by_dynamo(
    network: nn.Module,
    examples: Sequence[torch.Tensor],
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
    free_axes: Axes,
    opset: int,
) -> onnx.ModelProto:
    batch = torch.export.Dim(BATCH)
    shapes: Any = tuple({spec.shape.index(None): batch} if None in spec.shape else None for spec in inputs)
    dynamic = ({"args": shapes} if isinstance(network, _Flat) else shapes) if any(shapes) else None
    options = {**_options(inputs, names, opset), "external_data": False, "verbose": False}
    program = torch.onnx.export(network, tuple(examples), dynamo=True, dynamic_shapes=dynamic, **options)
    assert program is not None
    return program.model_proto


def _options(inputs: Sequence[TensorSpec], names: Sequence[str], opset: int) -> dict[str, Any]:
    return {"opset_version": opset, "input_names": [spec.name for spec in inputs], "output_names": list(names)}


def _examples(inputs: Sequence[TensorSpec], batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for spec in inputs:
        shape, dtype = [batch if size is None else size for size in spec.shape], getattr(torch, spec.dtype)
        random = torch.randn(shape, generator=generator)
        found.append(random.to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype))
    return found


def _try_batches(proto: onnx.ModelProto, model: nn.Module, inputs: Sequence[TensorSpec], names: Sequence[str]) -> None:
    """Run with batch sizes that the exporter did not see, to detect a batch baked into the graph."""
    for batch in (1, 3):
        examples = _examples(inputs, batch)
        expected = [tensor.numpy() for tensor in flattened(model(*examples))]
        try:
            with OrtRunner(serialized(proto)) as runner:
                feeds = {spec.name: tensor.numpy() for spec, tensor in zip(inputs, examples, strict=True)}
                found = runner.infer(feeds)
        except IrepdeployError as error:
            raise ModelError(f"the ONNX model fails with a batch of {batch}: {error.what}") from error
        for name, array in zip(names, expected, strict=True):
            if found[name].shape != array.shape or not np.allclose(found[name], array, rtol=1e-3, atol=1e-3):
                raise ModelError(f"the ONNX model gives different outputs with a batch of {batch}", where=name)
