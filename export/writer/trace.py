"""Trace a network with torch.fx while running it once on inputs of the given shapes.

Symbolic proxies have no sizes, so a ``forward`` that uses one cannot be traced. Here every proxy carries a tensor:
sizes are plain integers, and only control flow that depends on the values of a tensor cannot be traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.runtime.torch_runner import first_line

from .graph import FREE, Value
from .tracer import ShapeTracer

__all__ = ["VARYING", "Trace", "trace_network"]

# Placeholder for an argument that depends on the batch.
VARYING = type("Varying", (), {"__repr__": lambda self: "an argument that depends on the batch"})()


class Trace:
    """The operators of a network in the order of their calls.

    Attributes:
        found: The result of each node: a Value, or a tuple of Values.
        constants: The tensors that do not depend on the inputs.
        mutated: For an in-place operator, the nodes whose tensors it changed, and whether each is the same tensor as
            its result rather than a view.
        args: Positional and keyword arguments of each node, with `VARYING` where they depend on the batch.
    """

    def __init__(self, model: nn.Module, examples: Sequence[torch.Tensor], leaves: frozenset[type[nn.Module]]) -> None:
        where = type(model).__name__
        tracer = ShapeTracer(examples, leaves)
        try:
            self.graph = tracer.trace(model)
        except ModelError:
            raise
        except Exception as error:  # a foreign forward may raise anything
            shapes = ", ".join(str(tuple(example.shape)) for example in examples)
            raise ModelError(f"forward cannot be traced with {shapes}: {first_line(error)}", where=where) from error
        if next(tracer.examples, None) is not None:
            raise ModelError(f"forward does not take {len(examples)} inputs", where=where)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.nodes = list(self.graph.nodes)
        self.found = tracer.found
        self.constants = tracer.constants
        self.mutated = tracer.mutated
        self.args = {node: (node.args, node.kwargs) for node in self.nodes}

    def module_of(self, node: torch.fx.Node) -> nn.Module | None:
        """Return the module that a node calls, or None for a function or method."""
        return self.modules[str(node.target)] if node.op == "call_module" else None


def trace_network(
    model: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[torch.dtype],
    leaves: frozenset[type[nn.Module]],
) -> Trace:
    """Trace a network in eval mode.

    With a dynamic batch (a size of `FREE`), the network is traced with sizes 2, 3 and 1, and the traces are compared.
    Modules of the types `leaves` are not traced into.
    """

    def trace(batch: int) -> Trace:
        sizes = [tuple(batch if size == FREE else size for size in shape) for shape in shapes]
        return Trace(model, [torch.zeros(size, dtype=kind) for size, kind in zip(sizes, dtypes, strict=True)], leaves)

    if not any(FREE in shape for shape in shapes):
        return trace(1)
    first = trace(2)
    for batch in (3, 1):
        _merge(first, trace(batch), type(model).__name__)
    return first


def _merge(a: Trace, b: Trace, where: str) -> None:
    """Mark in `a` all differences from `b`."""
    if [(n.op, n.target) for n in a.nodes] != [(n.op, n.target) for n in b.nodes]:
        raise ModelError(
            "forward calls other operators for another batch size", where=where, hint="export a static batch"
        )
    for x, y in zip(a.nodes, b.nodes, strict=True):
        a.args[x] = _merged_args(a.args[x], b.args[y])
        if x in a.constants and not torch.equal(a.constants[x], b.constants[y]):
            constant = a.constants[x]
            rows = [tensor[:1] for tensor in (constant, b.constants[y]) if tensor.dim()]
            one_row = rows and torch.equal(rows[0], rows[-1]) and torch.equal(constant, rows[0].expand_as(constant))
            if not one_row:
                raise ModelError("a constant depends on the batch", where=where, hint="export a static batch")
            a.constants[x] = rows[0]
        if x in a.found:
            a.found[x] = _merged_found(a.found[x], b.found[y], where)


def _merged_args(a: Any, b: Any) -> Any:
    if isinstance(a, torch.fx.Node) and isinstance(b, torch.fx.Node):
        return a
    if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
        return type(a)(map(_merged_args, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.keys() == b.keys():
        return {key: _merged_args(a[key], b[key]) for key in a}
    if isinstance(a, slice) and isinstance(b, slice):
        return slice(*map(_merged_args, (a.start, a.stop, a.step), (b.start, b.stop, b.step)))
    return a if type(a) is type(b) and a == b else VARYING


def _merged_found(a: Any, b: Any, where: str) -> Any:
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(_merged_found(x, y, where) for x, y in zip(a, b, strict=True))
    if isinstance(a, Value) and isinstance(b, Value) and (len(a.shape), a.dtype) == (len(b.shape), b.dtype):
        return Value(a.name, tuple(x if x == y else FREE for x, y in zip(a.shape, b.shape, strict=True)), a.dtype)
    if a == b:
        return a
    raise ModelError("a tensor has other dimensions for another batch size", where=where, hint="export a static batch")
