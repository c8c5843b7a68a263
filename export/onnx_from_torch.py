"""Write a network as ONNX, from its torch.fx graph.

torch's own exporter ignores the opset asked for, renames what it folds and may write a second file; the networks here
need a dozen operators, so their nodes are written one by one, with the names of the module tree.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
import torch.fx
from torch import nn

from irepdeploy.errors import InputError, ModelError
from irepdeploy.reparam.block import RepBlock
from irepdeploy.runtime.runner import TensorSpec

from .graph import Emitter, OnnxGraph, Value
from .handlers import FUNCTIONS, MODULES, PASSED_THROUGH, supported

__all__ = ["onnx_from_torch", "serialized"]

_IN_PLACE = {operator.iadd, torch.relu_, "add_", "relu_"}


@torch.no_grad()
def onnx_from_torch(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    *,
    opset: int = 13,
    ir_version: int = 8,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The ONNX model of a network in eval mode.

    A batch normalisation whose input is one convolution that nothing else reads is folded into it, in float64 and
    rounded once. Nodes are named as the module tree (``layer1.0.conv1``), weights after their node
    (``layer1.0.conv1.weight``). The same network gives the same bytes (`serialized`).

    Args:
        model: made of the operators in `handlers`; RepBlocks must have been fused.
        inputs: name, shape with the batch (static) and dtype of each input, in the order of ``forward``.
        outputs: names of what ``forward`` returns, in its order.
        metadata: written into ``metadata_props``.

    Raises:
        ModelError: train mode, an operator that cannot be written, a ``forward`` that cannot be traced or does not take
            these inputs.
    """
    _refuse_what_never_works(model)
    trace = _Trace(model, inputs)
    graph = OnnxGraph(
        type(model).__name__,
        opset=opset,
        ir_version=ir_version,
        reserved=[*(spec.name for spec in inputs), *outputs],
    )
    results = _emit(graph, trace, inputs)
    if len(results) != len(outputs):
        raise ModelError(
            f"the network gives {len(results)} outputs, and {len(outputs)} are named: {', '.join(outputs)}",
            where=type(model).__name__,
            hint="irepdeploy.origin.set_origin(net, output_names=(...)) names them",
        )
    return graph.finish(dict(zip(outputs, results, strict=True)), metadata or {})


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of `model`, always the same."""
    return model.SerializeToString(deterministic=True)


class _Proxy(torch.fx.Proxy):
    # Without this, Python makes `y = y + x` of `y += x`, and whoever else holds y would read the old one.
    def __iadd__(self, other: Any) -> torch.fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(torch.fx.Tracer):
    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, RepBlock) or super().is_leaf_module(m, module_qualified_name)


class _Trace(torch.fx.Interpreter):
    """The network's graph, with the shape and dtype of every tensor and the value of everything else."""

    def __init__(self, model: nn.Module, inputs: Sequence[TensorSpec]) -> None:
        where = type(model).__name__
        try:
            graph = _Tracer().trace(model)
        except Exception as error:  # whatever a foreign forward raises under tracing
            raise ModelError(
                f"forward cannot be traced: {_first_line(error)}", where=where, hint="no branches on tensor values"
            ) from error
        super().__init__(model, graph=graph)
        self.modules = dict(model.named_modules())
        self.found: dict[torch.fx.Node, Any] = {}
        examples = [torch.zeros(_static(spec), dtype=getattr(torch, spec.dtype)) for spec in inputs]
        try:
            self.run(*examples)
        except Exception as error:  # a foreign forward again
            shapes = ", ".join(str(tuple(example.shape)) for example in examples)
            raise ModelError(f"forward does not take {shapes}: {_first_line(error)}", where=where) from error

    def module_of(self, node: torch.fx.Node) -> nn.Module | None:
        """The module that a node calls, or None where it calls none."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.found[n] = Value(n.name, tuple(result.shape), str(result.dtype).removeprefix("torch."))
        else:
            self.found[n] = result
        return result


def _emit(graph: OnnxGraph, trace: _Trace, inputs: Sequence[TensorSpec]) -> list[Value]:
    """Write every node and return what the network returns."""
    values: dict[torch.fx.Node, Any] = {}
    folds = _foldable(trace)
    folded = {bn for bns in folds.values() for bn in bns}
    specs = iter(inputs)
    for node in trace.graph.nodes:
        found = trace.found[node]
        if node.op == "placeholder":
            values[node] = _input(graph, next(specs, None), node, found)
        elif node.op == "output":
            return _results(torch.fx.node.map_arg(node.args[0], values.__getitem__))
        elif node in folded:
            values[node] = values[node.args[0]]
        elif not _holds_tensor(found):
            # A size, or something computed from sizes: shapes are static, so it is a constant.
            values[node] = found
        else:
            values[node] = result = _write(graph, trace, node, values, folds.get(node, ()))
            changed = node.args[0] if node.args else node.kwargs.get("input")
            if isinstance(changed, torch.fx.Node) and _in_place(trace, node):
                _overwrite(values, values[changed], result)
    raise ModelError("the network returns nothing")


def _write(
    graph: OnnxGraph,
    trace: _Trace,
    node: torch.fx.Node,
    values: dict[torch.fx.Node, Any],
    folded: Sequence[torch.fx.Node],
) -> Value:
    found = trace.found[node]
    name = _scope(node)
    if node.op == "get_attr":
        tensor = trace.fetch_attr(str(node.target))
        return Value(graph.initializer(id(tensor), str(node.target), tensor), found.shape, found.dtype)
    module = trace.module_of(node)
    handler = FUNCTIONS.get(node.target) if module is None else MODULES.get(type(module))
    if handler is None or not isinstance(found, Value):
        kind = _operator_name(node.target) if module is None else type(module).__name__
        raise ModelError(f"operator {kind} cannot be written as ONNX", where=name, hint=f"can be: {supported()}")
    bns = tuple(trace.modules[str(bn.target)] for bn in folded)
    emit = Emitter(graph, name, found.shape, found.dtype, bns)
    args = torch.fx.node.map_arg(node.args, values.__getitem__)
    kwargs = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
    try:
        return handler(emit, *args, **kwargs) if module is None else handler(emit, module, *args, **kwargs)
    except TypeError as error:
        raise ModelError(f"these arguments cannot be written as ONNX: {error}", where=name) from error


def _foldable(trace: _Trace) -> dict[torch.fx.Node, tuple[torch.fx.Node, ...]]:
    """The batch normalisations behind each convolution that nothing else reads."""
    found = {}
    for conv in trace.graph.nodes:
        if type(trace.module_of(conv)) is not nn.Conv2d:
            continue
        folded = []
        node = conv
        while len(node.users) == 1:
            node = next(iter(node.users))
            module = trace.module_of(node)
            if type(module) is nn.BatchNorm2d and module.running_var is not None:
                folded.append(node)
            elif type(module) not in PASSED_THROUGH and node.target not in PASSED_THROUGH:
                break
        if folded:
            found[conv] = tuple(folded)
    return found


def _input(graph: OnnxGraph, spec: TensorSpec | None, node: torch.fx.Node, found: Any) -> Any:
    if spec is None:
        if isinstance(found, Value):
            raise ModelError(f"the network takes {node.target!r} too, which is not among the inputs")
        return found
    value = Value(spec.name, _static(spec), spec.dtype)
    graph.add_input(value)
    return value


def _static(spec: TensorSpec) -> tuple[int, ...]:
    if None in spec.shape:
        raise InputError(f"input {spec} has a free size", hint="the ONNX written here has static shapes")
    return tuple(size for size in spec.shape if size is not None)


def _results(returned: Any) -> list[Value]:
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    results = list(returned) if isinstance(returned, list | tuple) else [returned]
    if not all(isinstance(result, Value) for result in results):
        raise ModelError("the network returns something that is no tensor, nor tensors one level deep")
    return results


def _scope(node: torch.fx.Node) -> str:
    """Path of the module, or of the module that a function is called in and the function's name."""
    path = next(reversed(node.meta.get("nn_module_stack", {})), "")
    path = str(path).partition("@")[0]
    if node.op == "call_module":
        return str(node.target)
    name = _operator_name(node.target)
    return f"{path}.{name}" if path else name


def _operator_name(target: Any) -> str:
    if isinstance(target, str):
        return target
    known = {torch.nn.functional.max_pool2d: "max_pool2d", operator.iadd: "add"}
    return known.get(target) or str(getattr(target, "__name__", target))


def _in_place(trace: _Trace, node: torch.fx.Node) -> bool:
    module = trace.module_of(node)
    if module is not None:
        return bool(getattr(module, "inplace", False))
    return node.target in _IN_PLACE or bool(node.kwargs.get("inplace", False))


def _overwrite(values: dict[torch.fx.Node, Any], old: Any, new: Value) -> None:
    # Whoever reads the old tensor after an operator that works in place reads the new one.
    for node, value in values.items():
        if isinstance(value, Value) and value == old:
            values[node] = new


def _holds_tensor(found: Any) -> bool:
    return any(_tensors(found))


def _tensors(found: Any) -> Iterator[bool]:
    if isinstance(found, list | tuple):
        for item in found:
            yield from _tensors(item)
    else:
        yield isinstance(found, Value | torch.Tensor)


def _refuse_what_never_works(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training:
            raise ModelError(
                "the network is in train mode", where=name or type(module).__name__, hint="call model.eval()"
            )
        if isinstance(module, RepBlock):
            raise ModelError("branches cannot be written as ONNX", where=name, hint="fuse first: irepdeploy.fuse(net)")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
