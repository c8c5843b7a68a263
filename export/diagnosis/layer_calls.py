"""Run a network and observe every call of a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from irepdeploy.errors import InputError
from irepdeploy.reparam.block import RepBlock
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

__all__ = ["Seen", "run_layers"]

Array = np.ndarray[Any, Any]
Seen = Callable[[int, str, nn.Module, tuple[Any, ...], torch.Tensor], None]


def run_layers(model: nn.Module, arrays: Sequence[Array], seen: Seen) -> None:
    """Run a network and report every call of a layer.

    A layer is a module without children, or a RepBlock as a whole. `seen` receives the index of the call, the name of
    its node, the module, its inputs and its output.
    """
    if model.training:
        raise InputError("the network is in train mode", where=type(model).__name__, hint="call model.eval() first")
    blocks = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, RepBlock))
    layers = {
        name: module
        for name, module in model.named_modules()
        if name and not name.startswith(blocks) and (f"{name}." in blocks or not any(module.children()))
    }
    counts: Counter[str] = Counter()

    def hook(name: str) -> Callable[..., None]:
        def called(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                times = counts[name]
                counts[name] += 1
                seen(counts.total() - 1, f"{name}_{times}" if times else name, module, args, output)

        return called

    parameter = next(model.parameters(), None)
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    if parameter is not None:
        tensors = [x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype) for x in tensors]
    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        with torch.inference_mode(), exact_arithmetic():
            model(*tensors)
    finally:
        for handle in handles:
            handle.remove()
