"""Check the weights of a checkpoint, limit the network built for them, and load them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from irepdeploy.errors import CheckpointError, ModelError

__all__ = ["kind_refused", "load_weights", "no_larger_than"]

# Number of names to list in an error.
_SHOWN = 5
# Weights of these dtypes may be loaded into a network of another one of them.
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def kind_refused(tensor: Tensor) -> str | None:
    """Return the kind of a tensor that a checkpoint cannot contain, such as "sparse", or None if it can."""
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_meta:
        return "meta (without values)"
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_nested:
        return "nested"
    return None if type(tensor) in (Tensor, nn.Parameter) else type(tensor).__name__


@contextmanager
def no_larger_than(state: Mapping[str, Tensor], where: object) -> Iterator[None]:
    """Raise CheckpointError if a network built in the ``with`` block is too large for these weights.

    The error is raised before the memory is used. The limit is twice the number of weights, because a network without
    its branches has at most twice as many parameters as with them, or as fused.
    """
    thread, left = threading.get_ident(), 2 * sum(tensor.numel() for tensor in state.values())

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        # The hook is also called for networks that other threads build.
        if threading.get_ident() == thread and isinstance(parameter, Tensor):
            # At this point torch has reserved the memory, but not written to it.
            left -= parameter.numel()
            if left < 0 or parameter.numel() == 0:
                size = "a larger network than it holds weights for" if left < 0 else "a layer without weights"
                raise CheckpointError(f"describes {size}", where=where)

    handle = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def load_weights(network: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Load weights into a network, in place.

    Parameters and buffers of the network are cast to the floating-point precision of the weights; no other dtypes are
    cast.

    Raises:
        CheckpointError: Names, shapes or dtypes do not fit.
        ModelError: The network has state other than tensors.
    """
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(state) - set(expected))
    if missing or extra:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for what, names in (("missing", missing), ("unexpected", extra))
            if names
        ]
        raise CheckpointError(f"weights do not fit the network: {', '.join(parts)}", where=where)
    for name, tensor in expected.items():
        found = state[name]
        if not isinstance(tensor, Tensor):
            raise ModelError("the network has state other than tensors", where=name)
        if tensor.shape != found.shape:
            raise CheckpointError(
                f"weights do not fit the network: {name}: expected {tuple(tensor.shape)}, got {tuple(found.shape)}",
                where=where,
            )
        if tensor.dtype != found.dtype and not {tensor.dtype, found.dtype} <= set(_PRECISIONS):
            raise CheckpointError(
                f"weights do not fit the network: {name}: expected {_text(tensor.dtype)}, got {_text(found.dtype)}",
                where=where,
            )
    for prefix, module in network.named_modules():
        tensors = (*module.named_parameters(prefix, recurse=False), *module.named_buffers(prefix, recurse=False))
        for name, tensor in tensors:
            if name in state and tensor.dtype != state[name].dtype:
                tensor.data = tensor.data.to(state[name].dtype)
            if 0 in tensor.stride():
                # The values of an expanded tensor share memory, so they cannot be set individually.
                tensor.data = tensor.data.contiguous()
    network.load_state_dict(state)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
