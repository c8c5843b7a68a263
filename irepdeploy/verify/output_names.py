"""Names of a network's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from irepdeploy.board.runner import TensorSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["output_names"]


def output_names(network: nn.Module, specs: Sequence[TensorSpec], known: Sequence[str]) -> tuple[str, ...]:
    """Return `known`, unless it is the default for one output and a foreign network returns several.

    Such a network runs once on zeros. The names are the keys of the dictionary that it returns, or ``out_0``,
    ``out_1``, ... If it cannot run, `known` is returned: whatever uses the network next reports the problem.
    """
    from irepdeploy.reparam.origin import Origin, origin_of

    if origin_of(network).net is not None or tuple(known) != Origin.output_names:
        return tuple(known)
    return _returned_names(network, specs) or tuple(known)


def _returned_names(network: nn.Module, specs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the names of the outputs of a network that has several; () if it has one, or cannot run yet."""
    import torch

    from irepdeploy.runtime.torch_runner import flattened

    if not specs or any(None in spec.shape[1:] for spec in specs):
        return ()
    like = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    kinds = [like if spec.dtype.startswith("float") else getattr(torch, spec.dtype) for spec in specs]
    try:
        with torch.inference_mode():
            zeros = [
                torch.zeros([size or 1 for size in spec.shape], dtype=kind)
                for spec, kind in zip(specs, kinds, strict=True)
            ]
            returned = network(*zeros)
    except Exception:  # raised again, with a message, when the network is used
        return ()
    values = list(flattened(returned))
    if isinstance(returned, Mapping) and len(values) == len(returned):
        return tuple(map(str, returned))
    return tuple(f"out_{index}" for index in range(len(values))) if len(values) > 1 else ()
