"""Write a network as ONNX from a torch.fx trace.

torch's dynamo exporter writes opset 18 or later and rarely converts to an earlier one, which Jetson boards need;
docs/design-decisions.md compares the two. Nodes and weights are named after the module tree.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
import torch.fx
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, ModelError, one_line
from irepdeploy.onnx_graph.written import serialized
from irepdeploy.reparam.block import RepBlock
from irepdeploy.runtime.torch_runner import flattened

from .graph import FREE, Emitter, Normalization, OnnxGraph, Value
from .handlers import BY_SHAPE, MODULES, PASSED_THROUGH, handler_of
from .trace import VARYING, Trace, trace_network

__all__ = ["named_outputs", "onnx_from_torch", "refuse_what_never_works", "serialized"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_FUNCTIONS = {torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d}
_LAYER_FUNCTIONS: set[Any] = {*_CONV_FUNCTIONS, torch.nn.functional.linear}


@torch.no_grad()
def onnx_from_torch(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str] | None = None,
    *,
    opset: int = 13,
    ir_version: int = 8,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Write a network in eval mode as an ONNX model.

    A batch normalization that is the only consumer of a convolution or a linear layer is folded into it, in float64
    and rounded once. Nodes are named after the module tree (``layer1.0.conv1``), weights after their node
    (``layer1.0.conv1.weight``). The same network gives the same bytes (`serialized`).

    Args:
        model: Network of operators in `handlers`, without RepBlocks.
        inputs: Name, shape and dtype of each input, in the order of ``forward``. A size of None is a dynamic batch,
            called N in the file; every other size is static.
        outputs: Names of the tensors that ``forward`` returns, in order, with tuples, lists and mappings flattened and
            None omitted. Default: "output" for one tensor, the keys of a mapping, else out_0, out_1, ...
        opset: 13 to 17; the operators written here did not change between them.
        ir_version: IR version of the file.
        metadata: Entries of ``metadata_props``.
    """
    if not 13 <= opset <= 17:
        raise InputError(f"expected an opset from 13 to 17, got {opset}")
    refuse_what_never_works(model)
    shapes = [_shape(spec) for spec in inputs]
    trace = trace_network(model, shapes, [getattr(torch, spec.dtype) for spec in inputs], frozenset(MODULES))
    names = named_outputs(trace.nodes[-1].args[0], torch.fx.Node, outputs, type(model).__name__)
    if {spec.name for spec in inputs} & set(names):
        raise InputError(f"an input and an output have the same name: {', '.join(names)}", where=type(model).__name__)
    graph = OnnxGraph(
        type(model).__name__, opset=opset, ir_version=ir_version, reserved=[*(spec.name for spec in inputs), *names]
    )
    results = _emit(graph, trace, inputs)
    for name, result in zip(names, results, strict=True):
        if result.shape.count(FREE) > 1:
            raise ModelError("its shape depends on the batch along several dimensions", where=f"output {name!r}")
    return graph.finish(dict(zip(names, results, strict=True)), metadata or {})


def refuse_what_never_works(model: nn.Module) -> None:
    """Raise ModelError for a network that no exporter may write: in train mode, or with branches."""
    for name, module in model.named_modules():
        if module.training:
            raise ModelError(
                "the network is in train mode", where=name or type(module).__name__, hint="call model.eval()"
            )
        if isinstance(module, RepBlock):
            raise ModelError("branches cannot be exported to ONNX", where=name, hint="fuse first: irepdeploy.fuse(net)")


def _emit(graph: OnnxGraph, trace: Trace, inputs: Sequence[TensorSpec]) -> list[Value]:
    """Write every node and return the outputs of the network."""
    values: dict[torch.fx.Node, Any] = {}
    folds = _foldable(trace)
    folded = {bn for bns in folds.values() for bn in bns}
    specs = iter(inputs)
    for position, node in enumerate(trace.nodes):
        if node.op == "placeholder":
            spec = next(specs)
            values[node] = Value(spec.name, trace.found[node].shape, spec.dtype)
            graph.add_input(values[node])
        elif node.op == "output":
            returned = torch.fx.node.map_arg(node.args[0], values.__getitem__)
            return list(flattened(returned))
        elif node in trace.constants:
            found, tensor = trace.found[node], trace.constants[node]
            name = str(node.target) or f"{_scope(node, trace)}constant"
            values[node] = Value(name, found.shape, found.dtype, tensor)
            if FREE in found.shape:
                values[node] = graph.stretched(values[node])
        elif node in folded:
            values[node] = values[node.args[0]]
        else:
            values[node] = result = _write(graph, trace, node, values, tuple(folds.get(node, {}).values()))
            for other, same in trace.mutated.get(node, ()):
                if same:
                    # Nodes that later read a tensor changed in place read the result.
                    values[other] = result
                elif any(trace.nodes.index(user) > position for user in other.users):
                    raise ModelError("a tensor is changed in place through a view", where=_name(node, trace))
    raise ModelError("the network returns nothing")


def _write(
    graph: OnnxGraph,
    trace: Trace,
    node: torch.fx.Node,
    values: dict[torch.fx.Node, Any],
    folded: tuple[Normalization, ...],
) -> Any:
    name, module = _name(node, trace), trace.module_of(node)
    if node not in trace.found:
        raise ModelError("scripted modules are not supported", where=name, hint="use the module that was scripted")
    found = trace.found[node]
    args, kwargs = torch.fx.node.map_arg(trace.args[node], values.__getitem__)
    if module is None and node.target is operator.getitem and isinstance(args[0], tuple):
        return args[0][args[1]]
    handler = handler_of(node.target) if module is None else MODULES.get(type(module))
    if handler is None:
        kind = _operator_name(node.target) if module is None else type(module).__name__
        raise ModelError(f"operator {kind} is not supported", where=name)
    if node.target not in BY_SHAPE and any(item is VARYING for item in _items((args, kwargs))):
        raise ModelError("its arguments depend on the batch", where=name, hint="export a static batch")
    emit = Emitter(graph, name, found, folded)
    try:
        return handler(emit, *args, **kwargs) if module is None else handler(emit, module, *args, **kwargs)
    except TypeError as error:
        raise ModelError(f"unsupported arguments: {one_line(error)}", where=name) from error


def _foldable(trace: Trace) -> dict[torch.fx.Node, dict[torch.fx.Node, Normalization]]:
    """Return the batch normalizations that can be folded into each convolution and linear layer."""
    found = {}
    for conv in trace.nodes:
        kind = type(trace.module_of(conv))
        if kind not in (*_CONVOLUTIONS, nn.Linear) and conv.target not in _LAYER_FUNCTIONS:
            continue
        if (kind is nn.Linear or conv.target is torch.nn.functional.linear) and len(trace.found[conv].shape) != 2:
            # The normalization acts on the second dimension, which is not that of the weights.
            continue
        folded = {}
        node = conv
        while len(node.users) == 1:
            node = next(iter(node.users))
            normalization = _normalization(trace, node)
            if normalization is not None:
                folded[node] = normalization
            elif type(trace.module_of(node)) not in PASSED_THROUGH and node.target not in PASSED_THROUGH:
                break
        if folded:
            found[conv] = folded
    return found


def _normalization(trace: Trace, node: torch.fx.Node) -> Normalization | None:
    """Return the batch normalization of a node, or None for another operator."""
    module: Any = trace.module_of(node)
    if type(module) in _BATCH_NORMS and module.running_var is not None:
        return Normalization.of(module)
    if node.target is not torch.nn.functional.batch_norm:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    read = [given.get(name) for name in names[1:5]]
    tensors = [trace.constants.get(item) if isinstance(item, torch.fx.Node) else None for item in read]
    unknown = any(tensor is None and item is not None for tensor, item in zip(tensors, read, strict=True))
    if unknown or tensors[0] is None or tensors[1] is None or given.get("training"):
        return None
    eps: Any = given.get("eps", 1e-5)
    return Normalization(tensors[0], tensors[1], tensors[2], tensors[3], float(eps), id(tensors[1]))


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    if spec.shape.count(None) > 1:
        raise InputError(f"input {spec} has several dynamic sizes", hint="only the batch may be dynamic")
    return tuple(FREE if size is None else size for size in spec.shape)


def named_outputs(returned: Any, kind: type, names: Sequence[str] | None, where: str) -> list[str]:
    """Return the names of the tensors that a network returned, nested or not: `names` if given.

    `kind` is the type that represents a tensor in `returned`.
    """
    tensors = list(flattened(returned))
    if not tensors or not all(isinstance(item, kind) for item in tensors):
        raise ModelError("expected the network to return tensors only", where=where)
    if names is None:
        if isinstance(returned, Mapping) and all(isinstance(item, kind) for item in returned.values()):
            return _distinct([re.sub(r"\W", "_", str(key)) for key in returned])
        return ["output"] if len(tensors) == 1 else [f"out_{index}" for index in range(len(tensors))]
    if len(tensors) != len(names):
        raise ModelError(
            f"the network has {len(tensors)} outputs, got {len(names)} names: {', '.join(names)}",
            where=where,
            hint="irepdeploy.reparam.origin.set_origin(net, output_names=(...)) names them",
        )
    for name in names:
        if not name or any("\ud800" <= char <= "\udfff" for char in name):
            raise InputError(f"expected names of outputs in UTF-8, got {name!r}", where=where)
    if len(set(names)) != len(names):
        raise InputError(f"the output names are not distinct: {', '.join(names)}", where=where)
    return list(names)


def _distinct(names: list[str]) -> list[str]:
    return names if len(set(names)) == len(names) else [f"{name}_{index}" for index, name in enumerate(names)]


def _items(args: Any) -> Iterator[Any]:
    if isinstance(args, slice):
        args = (args.start, args.stop, args.step)
    if isinstance(args, Mapping):
        args = list(args.values())
    if isinstance(args, list | tuple):
        for item in args:
            yield from _items(item)
    else:
        yield args


def _name(node: torch.fx.Node, trace: Trace) -> str:
    """Return the path of a module, or the path of the calling module and the name of a function."""
    if node.op == "call_module":
        return str(node.target)
    scope = _scope(node, trace)
    # A module of torch calls a single function, whose name would add nothing.
    inner = trace.modules.get(scope.rstrip(".")) if scope else None
    return scope.rstrip(".") if inner is not None and _is_function(inner) else f"{scope}{_operator_name(node.target)}"


def _is_function(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules") and not any(module.children())


def _scope(node: torch.fx.Node, trace: Trace) -> str:
    path = str(next(reversed(node.meta.get("nn_module_stack", {})), "")).partition("@")[0]
    return f"{path}." if path else ""


def _operator_name(target: Any) -> str:
    known = {torch.nn.functional.max_pool2d: "max_pool2d", operator.iadd: "add", operator.isub: "sub"}
    if target in known:
        return known[target]
    name = target if isinstance(target, str) else str(getattr(target, "__name__", target))
    return name.strip("_") or name
