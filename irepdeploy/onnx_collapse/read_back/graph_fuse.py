"""Fuse a network of any class through ONNX: export it, collapse the graph, and read it back as a torch network."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from irepdeploy.board.comparison import Noise
from irepdeploy.errors import CheckFailed, InputError, NotFusable, first_line
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_collapse.read_back.torch_from_onnx import inferred_shapes, torch_from_onnx
from irepdeploy.onnx_collapse.read_back.values_read import value_read
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.reparam.comparator import TOLERANCES, compare_outputs, relative_error
from irepdeploy.reparam.origin import FUSED, origin_of, set_origin
from irepdeploy.reparam.structure import copied
from irepdeploy.reparam.wrappers import refuse_uninitialized, unwrapped
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.runtime.given_inputs import given_tensors
from irepdeploy.runtime.quiet_exporter import exporter_reason, given_inputs_alone, quiet_exporter
from irepdeploy.runtime.torch_runner import flattened

__all__ = ["fuse_graph"]

# The newest opset in which torch's TorchScript exporter writes only widely supported operators.
_OPSET = 17
_BATCH = 3


@torch.no_grad()
@exact_arithmetic()
def fuse_graph(model: nn.Module, example: Any = None, *, prove: bool = True) -> nn.Module:
    """Fuse a network of any class through its ONNX graph.

    Linear regions of the graph become single convolutions, regardless of the modules that they come from.

    Args:
        model: A float32 network in eval mode that torch's exporter supports; it is not changed.
        example: Input tensor (1, ...), or several in the order of ``forward`` or by the names of its parameters, whose
            shapes define the input sizes. Defaults to the input sizes in the network's Origin.
        prove: Compare both networks on seeded random inputs with another batch size.

    Returns:
        A new `torch.fx.GraphModule` on the network's device, for inputs of the same sizes with any batch, or a copy of
        the network if nothing collapses.

    Raises:
        InputError: Neither `example` nor an Origin provides the input sizes.
        NotFusable: The network is in train mode, is not float32, has control flow that depends on tensor values, or
            cannot be exported.
        ModelError: An operator between the convolutions cannot be read back.
        CheckFailed: The outputs of the fused network differ.
    """
    if not isinstance(model, nn.Module):
        raise NotFusable(f"expected a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    refuse_uninitialized(model)
    if any(module.training for module in model.modules()):
        raise NotFusable("the network is in train mode", where=type(model).__name__, hint="call model.eval() first")
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if kinds - {torch.float32}:
        raise NotFusable(
            f"expected float32 weights, got {', '.join(sorted(map(str, kinds)))}", hint="fuse model.float() first"
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = _example(model, example)
    found = collapse(_exported(model, tuple(x.to(device) for x in inputs)))
    if not found.changed:
        return copied(model)
    given = tuple(x.to(device) for x in inputs)
    read = value_read(model, given)
    if read is not None:
        raise NotFusable(
            f"forward decides by the values of a tensor ({read}), so that no graph is equal to it",
            where=type(model).__name__,
            hint="fuse only its blocks: irepdeploy.fuse or irepdeploy.fuse_probe",
        )
    plain = torch_from_onnx(found.model).to(device)
    if prove:
        try:
            _prove(model, plain, given)
        except NotFusable:
            # Some shapes have the batch in another dimension than the first; the shapes for another batch show which.
            shapes = inferred_shapes(_exported(model, tuple(torch.cat([x, x]) for x in given)))
            plain = torch_from_onnx(found.model, shapes).to(device)
            _prove(model, plain, given)
    origin = origin_of(model)
    # No registered class has the structure of the graph.
    return set_origin(plain, replace(origin, net=None, args={}, factory=None, layers=(), state=FUSED))


def _example(model: nn.Module, example: Any) -> tuple[Tensor, ...]:
    if example is not None:
        given = given_tensors(model, example)
        if any(x.ndim == 0 for x in given):
            raise InputError("expected tensors with a batch dimension", where="example", hint="torch.zeros(1, C, H, W)")
        return tuple(x[:1] for x in given)
    specs = origin_of(model).specs
    if not specs:
        raise InputError(
            "the input sizes of this network are not known",
            where=type(model).__name__,
            hint="fuse_graph(net, example=torch.zeros(1, C, H, W))",
        )
    # In the specs of an Origin only the batch is dynamic.
    sizes = [[size or 0 for size in spec.shape[1:]] for spec in specs]
    return tuple(
        torch.zeros(1, *each, dtype=getattr(torch, spec.dtype)) for spec, each in zip(specs, sizes, strict=True)
    )


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    buffer: Any = io.BytesIO()
    names = [f"input_{place}" for place in range(len(inputs))] if len(inputs) > 1 else ["input"]
    try:
        with quiet_exporter(), given_inputs_alone(model):
            torch.onnx.export(model, inputs, buffer, dynamo=False, opset_version=_OPSET, input_names=names)
    except Exception as error:  # any error of a foreign forward or of the exporter
        raise NotFusable(
            f"torch cannot export it: {exporter_reason(error)}",
            where=type(model).__name__,
            hint="irepdeploy.export_model writes and collapses more operators",
        ) from error
    return open_model(buffer.getvalue())


def _prove(model: nn.Module, plain: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(_BATCH, *x.shape[1:], generator=generator) for x in inputs]
    drawn = [
        r.to(x) if x.is_floating_point() else torch.zeros_like(r).to(x) for r, x in zip(random, inputs, strict=True)
    ]
    expected = list(flattened(model(*drawn)))
    try:
        # torch.fx prints the code around an operator that fails.
        with contextlib.redirect_stderr(io.StringIO()):
            outputs = list(flattened(plain(*drawn)))
    except Exception as error:  # anything that an operator raises that was read back
        raise NotFusable(
            f"its graph does not run with a batch of {_BATCH}, only with the one that it was exported with: "
            f"{first_line(error)}",
            where=type(model).__name__,
        ) from error
    if [tuple(a.shape) for a in expected] != [tuple(b.shape) for b in outputs]:
        raise NotFusable("its graph fixes the batch size that it was exported with", where=type(model).__name__)
    a, b = _arrays(expected), _arrays(outputs)
    comparison = compare_outputs(a, b, TOLERANCES["float32"])
    if not comparison.ok:
        # A change in the rounding of its inputs alone may move a network's outputs by more than the tolerance.
        ways = [torch.randn(x.shape, generator=generator).to(x.device) * math.inf for x in drawn]
        moved = [
            torch.nextafter(x, way.to(x.dtype)) if x.is_floating_point() else x
            for x, way in zip(drawn, ways, strict=True)
        ]
        others = _arrays(flattened(model(*moved)))
        errors = {name: relative_error(a[name], others[name]) for name in a}
        noise = {name: Noise(error, nudged=error) for name, error in errors.items() if math.isfinite(error)}
        comparison = compare_outputs(a, b, TOLERANCES["float32"], noise=noise)
    if not comparison.ok:
        raise CheckFailed(f"the fused network differs: {comparison.reason}", where=type(model).__name__)


def _arrays(outputs: Iterable[Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    return {str(place): tensor.cpu().numpy() for place, tensor in enumerate(outputs)}
