"""Limits of the integer inputs of a torch network that are used as indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from irepdeploy.verify.signature import Signature

__all__ = ["network_limits"]


def network_limits(model: nn.Module, signature: Signature) -> dict[str, tuple[int, int]]:
    """Run the network once on random inputs, and return the smallest and largest index for each input that is one.

    An input is an index if it selects from an embedding or any other tensor, directly or after a constant was added.
    """
    whole = [spec for spec in signature.inputs if not spec.is_float]
    if not whole:
        return {}
    kind = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    fed = {}
    for place, spec in enumerate(signature.inputs):
        shape = [1 if size is None else size for size in spec.shape]
        values = torch.from_numpy(spec.random(1, place, place)).reshape(shape)
        fed[spec.name] = values.to(kind) if spec.is_float else values
    watch = _Watch({spec.name: fed[spec.name].long().reshape(-1) for spec in whole if spec.dtype != "bool"})
    try:
        with torch.inference_mode(), watch:
            model(*fed.values())
    except Exception:  # a foreign forward may raise anything; the comparison will report it
        return {}
    return {name: found for name, found in watch.limits.items() if found[0] <= found[1]}


class _Watch(TorchDispatchMode):
    """Records which inputs are indices, and into how many items."""

    def __init__(self, fed: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._fed = fed
        self.limits: dict[str, tuple[int, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for size, index in _picked(func, args):
            for name, values in self._fed.items():
                if index.numel() != values.numel() or index.dtype == torch.bool or not values.numel():
                    continue
                added = index.detach().cpu().long().reshape(-1) - values
                offset = int(added[0])
                if bool((added == offset).all()):
                    least, most = self.limits.get(name, (0, size))
                    self.limits[name] = max(least, -offset), min(most, size - 1 - offset)
        return func(*args, **(kwargs or {}))


def _picked(func: Any, args: tuple[Any, ...]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number of items and the index that selects some of them."""
    name = str(func).split(".")[1]
    if name in ("embedding", "_embedding_bag", "_embedding_bag_forward_only"):
        yield args[0].shape[0], args[1]
    elif name in ("index_select", "gather") and args[0].dim():
        yield args[0].shape[args[1]], args[2]
    elif name == "index":
        for axis, index in enumerate(args[1]):
            if index is not None:
                yield args[0].shape[axis], index
