"""A torch.fx tracer with proxies that carry the tensors of one run."""

from __future__ import annotations

import operator
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.fx.node import map_aggregate

from irepdeploy.errors import ModelError

from .graph import Value

__all__ = ["ShapeTracer", "ValuesDecide"]


# Methods that return metadata of a tensor.
_ABOUT = {"dim", "element_size", "get_device", "is_complex", "is_contiguous", "is_floating_point", "ndimension"} | {
    *("nelement", "numel", "size", "storage_offset", "stride", "type")
}
# Functions that make a constant from the shape of a tensor.
_MAKERS: set[object] = {"new_zeros", "new_ones", "new_full", torch.zeros_like, torch.ones_like, torch.full_like}
# Modules of torch that are traced into the functions they call.
_INLINED = {
    f"torch.nn.modules.{name}"
    for name in ("activation", "channelshuffle", "dropout", "linear", "normalization", "padding", "pixelshuffle")
} | {"torch.nn.modules.pooling", "torch.nn.modules.upsampling"}


class ValuesDecide(ModelError):
    """Raised for a ``forward`` whose operators depend on the values of its tensors; no static graph is equivalent."""


class _Proxy(torch.fx.Proxy):
    value: torch.Tensor
    version: int

    def __getattr__(self, name: str) -> Any:
        if name in ("value", "version"):
            raise AttributeError(name)
        found = getattr(self.value, name)
        if isinstance(found, torch.Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return super().__getattr__(name) if callable(found) else found

    def __getitem__(self, index: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self.value)))

    def __len__(self) -> int:
        return len(self.value)

    def __bool__(self) -> bool:
        raise ValuesDecide("forward branches on the values of a tensor", where=self.node.name)


def _in_place(function: Callable[..., Any]) -> Callable[[_Proxy, Any], Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


# Without these, Python runs `y += x` as `y = y + x`, and other references to y would keep the old value.
for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class ShapeTracer(torch.fx.Tracer):
    """Trace one run on `examples`, without tracing into modules of the types `leaves`; see `Trace` for the results."""

    def __init__(self, examples: Sequence[torch.Tensor], leaves: frozenset[type[nn.Module]]) -> None:
        super().__init__()
        self.examples, self.leaves = iter(examples), leaves
        self.found: dict[torch.fx.Node, Any] = {}
        self.constants: dict[torch.fx.Node, torch.Tensor] = {}
        self.mutated: dict[torch.fx.Node, list[tuple[torch.fx.Node, bool]]] = {}
        self._live: list[weakref.ref[_Proxy]] = []
        self._weights: dict[int, str] = {}
        self._read: dict[int, torch.fx.Node] = {}
        self._running = False

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        """Return a proxy that can carry a tensor."""
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is not traced into."""
        if torch.nn.utils.parametrize.is_parametrized(m) or type(m).__module__.startswith("torch.nn.utils."):
            # Weights that are computed from others give constants.
            return False
        if type(m) in self.leaves:
            return True
        inlined = type(m).__module__ in _INLINED and not isinstance(m, nn.MultiheadAttention)
        return super().is_leaf_module(m, module_qualified_name) and not inlined

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module inside an operator, else trace its call, with its hooks."""
        if self._running:
            return forward(*args, **kwargs)
        if not self.is_leaf_module(m, self.path_of_module(m)) or not (m._forward_hooks or m._forward_pre_hooks):
            return super().call_module(m, forward, args, kwargs)
        # A leaf is one node, and torch.fx would not trace its hooks.
        for before in m._forward_pre_hooks.values():
            changed = before(m, args)
            args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
        result = super().call_module(m, forward, args, kwargs)
        for after in m._forward_hooks.values():
            changed = after(m, args, result)
            result = result if changed is None else changed
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module, without a proxy for weights."""
        # Weights stay tensors, so that expressions of weights alone become constants.
        return attr_val

    def create_arg(self, a: Any) -> Any:
        """Turn an argument into a node; tensors become constants."""
        if not isinstance(a, torch.Tensor):
            return super().create_arg(a)
        name = self._weights.get(id(a))
        if id(a) in self._read:
            return self._read[id(a)]
        node = self.create_node("get_attr", name or "", (), {})
        if name:
            self._read[id(a)] = node
        # forward may later overwrite a tensor that is not a weight.
        self.constants[node] = a.detach() if name else a.detach().clone()
        self.found[node] = _described(node, a)
        return node

    def trace(self, root: Any, concrete_args: Any = None) -> torch.fx.Graph:
        """Trace the network `root`."""
        weights = (*root.named_parameters(), *root.named_buffers())
        self._weights = {id(tensor): name for name, tensor in weights}
        return super().trace(root, concrete_args)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Add a node, run its operator and return a proxy, or the result if it is not a tensor."""
        example = None
        if kind == "placeholder":
            example = None if str(target).startswith("*") else next(self.examples, None)
            if example is None:
                return self._left_out(target, args)
        if kind == "call_function" and _is_foreign(target):
            # torch.fx.wrap excludes a function from the trace, but its operators are needed.
            return target(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr)
        assert isinstance(proxy, _Proxy)
        if example is not None:
            return self._holding(proxy, example)
        return self._run(proxy, kind, target, args, kwargs)

    def _run(self, proxy: _Proxy, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        node = proxy.node
        real_args, real_kwargs = _real(args), _real(kwargs)
        given = list(_tensors((real_args, real_kwargs)))
        versions = [tensor._version for tensor in given]
        self._running = True
        try:
            result = self._call(kind, target, real_args, real_kwargs)
        finally:
            self._running = False
        if any(tensor._version != version for tensor, version in zip(given, versions, strict=True)):
            self._note_mutation(node, result, given, versions)
        if not any(True for _ in _tensors(result)):
            name = target if isinstance(target, str) else getattr(target, "__name__", "")
            if name not in _ABOUT:
                raise ValuesDecide("forward reads the values of a tensor", where=name)
            self.graph.erase_node(node)
            return result
        if target in _MAKERS:
            self.graph.erase_node(node)
            return result
        if isinstance(result, torch.Tensor):
            return self._holding(proxy, result)
        if not isinstance(result, tuple | list):
            raise ModelError(f"expected an operator that returns tensors, got {type(result).__name__}", where=node.name)
        self.found[node] = _described(node, result)
        proxy.value, proxy.version = result, 0  # type: ignore[assignment]  # of tensors, no tensor
        # Each item needs its own proxy: a plain tensor would be taken for a constant.
        items = [proxy[index] if any(True for _ in _tensors(item)) else item for index, item in enumerate(result)]
        return type(result)(items)

    def _call(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "call_module":
            module = self.root.get_submodule(target)
            shape = _shape_of(module, args) if type(module) in self.leaves and not kwargs else None
            # Only the shape is needed, and these layers take most of the time.
            return module(*args, **kwargs) if shape is None else args[0].new_zeros(shape)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    def _left_out(self, target: Any, args: tuple[Any, ...]) -> Any:
        """Return the default of a parameter of forward without an input."""
        if str(target).startswith("**"):
            return {}
        if str(target).startswith("*"):
            return ()
        if args:
            return args[0]
        raise ModelError(f"forward requires {target!r}, which is not among the inputs")

    def _holding(self, proxy: _Proxy, tensor: torch.Tensor) -> _Proxy:
        proxy.value, proxy.version = tensor, tensor._version
        self.found.setdefault(proxy.node, _described(proxy.node, tensor))
        self._live.append(weakref.ref(proxy))
        return proxy

    def _note_mutation(
        self, node: torch.fx.Node, result: Any, given: Sequence[torch.Tensor], versions: Sequence[int]
    ) -> None:
        changed: list[tuple[torch.fx.Node, bool]] = []
        alive = [proxy for proxy in (reference() for reference in self._live) if proxy is not None]
        for proxy in alive:
            if isinstance(proxy.value, torch.Tensor) and proxy.value._version != proxy.version:
                proxy.version = proxy.value._version
                changed.append((proxy.node, isinstance(result, torch.Tensor) and _same(proxy.value, result)))
        self._live = [weakref.ref(proxy) for proxy in alive]
        own = {id(proxy.value) for proxy in alive}
        for tensor, version in zip(given, versions, strict=True):
            if tensor._version != version and (id(tensor) not in own or not isinstance(result, torch.Tensor)):
                raise ModelError("forward writes into a tensor", where=node.name)
        self.mutated[node] = changed


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.data_ptr(), a.shape, a.stride(), a.dtype) == (b.data_ptr(), b.shape, b.stride(), b.dtype)


def _described(node: torch.fx.Node, tensor: Any) -> Any:
    if isinstance(tensor, tuple | list):
        return tuple(_described(node, item) for item in tensor)
    if not isinstance(tensor, torch.Tensor):
        return tensor
    return Value(node.name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _is_foreign(target: Any) -> bool:
    return isinstance(target, types.FunctionType) and not f"{target.__module__}.".startswith("torch.")


def _shape_of(module: nn.Module, args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """Return the output shape of a layer, or None if it must be run to find out."""
    if len(args) != 1 or not isinstance(args[0], torch.Tensor):
        return None
    shape = tuple(args[0].shape)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return shape if len(shape) == 4 and shape[1] == module.num_features else None
    if isinstance(module, nn.Linear):
        return (*shape[:-1], module.out_features) if shape[-1:] == (module.in_features,) else None
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return None
    if len(shape) != 4 or shape[1] != module.in_channels or args[0].dtype != module.weight.dtype:
        return None
    geometry = zip(shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True)
    sizes = [(n + 2 * int(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in geometry]
    return (shape[0], module.out_channels, *sizes) if min(sizes) > 0 else None


def _real(args: Any) -> Any:
    return map_aggregate(args, lambda item: item.value if isinstance(item, _Proxy) else item)


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for item in result:
            yield from _tensors(item)
    elif isinstance(result, Mapping):
        yield from _tensors(list(result.values()))
