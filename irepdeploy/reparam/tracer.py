"""Trace a network with torch.fx without dissolving its RepBlocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.fx
from torch import nn

from irepdeploy.reparam.block import RepBlock

__all__ = ["Tracer", "dissolved_block"]


class Tracer(torch.fx.Tracer):
    """A tracer that keeps torch's own modules and RepBlocks as leaves, so that the graph can still be fused.

    ``torch.fx.GraphModule(model, Tracer().trace(model))``
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a call of `m` is one node."""
        return isinstance(m, RepBlock) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace through `m` without its hooks, which expect tensors and would get proxies."""
        return super().call_module(m, m.forward, args, kwargs)


def dissolved_block(model: nn.Module) -> str | None:
    """Return the name of a RepBlock that tracing dissolved: its parts are in `model`, the block is not."""
    names = [name for name, _ in model.named_parameters()]
    fixed = {name.removesuffix(".fixed.conv.weight") for name in names if name.endswith(".fixed.conv.weight")}
    fixed |= {name.partition(".branches.")[0] for name in names if ".branches." in name}
    for name in sorted(fixed):
        try:
            module: nn.Module | None = model.get_submodule(name)
        except AttributeError:
            module = None
        if not isinstance(module, RepBlock) and any(part.startswith(f"{name}.branches.") for part in names):
            return name
    return None
