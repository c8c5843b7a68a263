"""Trace a network with torch.fx without dissolving its RepBlocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.fx
from torch import nn

from irepdeploy.reparam.block import RepBlock, is_marked

__all__ = ["Tracer", "dissolved_block"]


class Tracer(torch.fx.Tracer):
    """A tracer that keeps torch's own modules and RepBlocks as leaves, so that the graph can still be fused.

    Use it as ``torch.fx.GraphModule(model, Tracer().trace(model))``.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a call of `m` becomes one node; a class without convolutions can set `traced_whole`."""
        whole = isinstance(m, RepBlock) or getattr(m, "traced_whole", False) is True
        return whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace through `m` without its hooks, which expect tensors instead of proxies."""
        return super().call_module(m, m.forward, args, kwargs)


def dissolved_block(model: nn.Module) -> str | None:
    """Return the name of a RepBlock that tracing dissolved, or None; `model` has its branches, but not the block.

    Modules are recognized by a mark, because modules of any network may be called ``branches``.
    """
    blocks = tuple(f"{name}." if name else "" for name, module in model.named_modules() if isinstance(module, RepBlock))
    for name, module in model.named_modules():
        if is_marked(module) and not name.startswith(blocks):
            return name.partition(".branches.")[0]
        if isinstance(module, torch.jit.ScriptModule):
            if _was_block(module) and any(True for _ in module.branches.children()):
                return name
        elif isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                inside = _block_around(node)
                if inside is not None:
                    return f"{name}.{inside}".lstrip(".")
    return None


def _was_block(module: torch.jit.ScriptModule) -> bool:
    # torch inserts a number between module and class if it compiled a class more than once.
    parts = str(module._c._type().qualified_name()).split(".")
    return ".".join(parts[1:4]) == RepBlock.__module__ and parts[-1] == RepBlock.__name__


def _block_around(node: torch.fx.Node) -> str | None:
    """Return the path of the RepBlock to whose branches this node belonged, or None."""
    block = None
    for path, kind in node.meta.get("nn_module_stack", {}).values():
        # torch.export stores the name of the class instead of the class.
        if kind is RepBlock or kind == f"{RepBlock.__module__}.{RepBlock.__qualname__}":
            block = path
        elif block is not None and "branches" in path.removeprefix(block):
            return str(block)
    return None
