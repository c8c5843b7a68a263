"""Detect a forward whose control flow depends on input values, since a trace would silently keep only one path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["value_read"]

# Functions that convert the values of a tensor to Python objects.
_READ: dict[Any, str] = {
    getattr(Tensor, name): name
    for name in ("__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist", "numpy")
} | {torch.equal: "equal", torch.allclose: "allclose", torch.is_nonzero: "is_nonzero"}


def value_read(model: nn.Module, inputs: Sequence[Tensor]) -> str | None:
    """Run a network once, and return the name of the first function that reads values computed from its inputs.

    The result is None if there is no such function.
    """
    with _Watch(inputs) as watch:
        model(*inputs)
    return watch.read


class _Watch(TorchFunctionMode):
    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.computed = WeakIdKeyDictionary()
        self.read: str | None = None
        for x in inputs:
            self.computed[x] = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = list(_tensors((args, kwargs)))
        if any(tensor in self.computed for tensor in given):
            self.read = self.read or _READ.get(func)
            # Setting an item returns nothing, but changes the first tensor.
            for tensor in (*_tensors(result), *(given[:1] if func is Tensor.__setitem__ else [])):
                self.computed[tensor] = True
        return result


def _tensors(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, list | tuple):
        for inner in item:
            yield from _tensors(inner)
    elif isinstance(item, Mapping):
        for inner in item.values():
            yield from _tensors(inner)
