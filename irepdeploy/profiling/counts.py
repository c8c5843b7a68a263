"""Count parameters and multiply-accumulates (MACs) in a uniform way."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.reparam.block import RepBlock

__all__ = ["REST", "Counts", "conv_text", "count", "count_layers"]

# Everything outside the layers of `count_layers`: batch normalization outside RepBlocks, embeddings, products of maps.
REST = "(rest)"


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters and MACs.

    Attributes:
        params: Number of parameters, including alpha and beta.
        macs: MACs of one input, or None if the input shape is unknown.
    """

    params: int
    macs: int | None


def count(model: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """Count parameters, and the MACs of a forward pass over zeros (1, *input_shape) in eval mode.

    `model` is not changed. Operators are counted instead of modules, so that ``torch.nn.functional.conv2d`` is
    included.
    """
    return Counts(sum(p.numel() for p in model.parameters()), _macs(model, input_shape)["Global"])


def count_layers(
    model: nn.Module, input_shape: tuple[int, ...] | None, inputs: Sequence[TensorSpec] = ()
) -> dict[str, Counts]:
    """Count parameters and MACs of each RepBlock, each other convolution or linear layer, and `REST`.

    The layers add up to the total. Shared parameters are counted in the first layer that has them.

    Args:
        model: The network; it is not changed.
        input_shape: Shape of the input without the batch, or None.
        inputs: Inputs of a network that does not take a single image; free sizes are set to 1.

    Returns:
        The counts by name of the layer; MACs are None if neither `input_shape` nor `inputs` is given.
    """
    macs = None if input_shape is None and not inputs else _macs(model, input_shape or (), inputs)
    prefix = type(model).__name__
    found: dict[str, Counts] = {}
    counted: set[int] = set()
    inside = {
        part
        for block in model.modules()
        if isinstance(block, RepBlock)
        for part in block.modules()
        if part is not block
    }
    for name, module in model.named_modules():
        if not isinstance(module, RepBlock | nn.Linear | nn.modules.conv._ConvNd) or module in inside:
            continue
        own = [parameter for parameter in module.parameters() if id(parameter) not in counted]
        counted |= {id(parameter) for parameter in own}
        key = f"{prefix}.{name}" if name else prefix
        found[name] = Counts(sum(p.numel() for p in own), None if macs is None else macs.get(key, 0))
    params = sum(p.numel() for p in model.parameters() if id(p) not in counted)
    rest = None if macs is None else macs["Global"] - sum(counts.macs or 0 for counts in found.values())
    return {**found, REST: Counts(params, rest)}


def conv_text(
    in_channels: object,
    out_channels: object,
    kernel: Sequence[object],
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> str:
    """Describe a convolution in words; strides, dilations and groups of 1 are omitted."""
    parts = [f"{'x'.join(map(str, kernel))} conv {in_channels} -> {out_channels}"]
    for name, values in (("stride", stride), ("dilation", dilation)):
        if any(value != 1 for value in values):
            parts.append(f"{name} {'x'.join(map(str, sorted(set(values)) if len(set(values)) == 1 else values))}")
    if groups != 1:
        parts.append(f"{groups} groups")
    return ", ".join(parts)


def _macs(model: nn.Module, input_shape: tuple[int, ...], inputs: Sequence[TensorSpec] = ()) -> dict[str, int]:
    """Return the MACs of each module, with the class name of the root in front, and of ``Global``."""
    from torch.utils.flop_counter import FlopCounterMode

    def run(twin: nn.Module) -> Any:
        like = next(twin.parameters(), torch.zeros(()))
        counter: Any = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            positional, named = _zeros(twin, inputs or (TensorSpec("", (1, *input_shape)),), like)
            twin.eval()(*positional, **named)
        return counter

    try:
        # The meta device avoids all computation and copies of weights.
        counter = run(_without_values(model))
    except Exception:  # a foreign forward that reads values or creates tensors may raise anything
        counter = run(copy.deepcopy(model))
    # torch counts a multiply-accumulate as two operations.
    return {
        "Global": counter.get_total_flops() // 2,
        **{name: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()},
    }


def _zeros(model: nn.Module, inputs: Sequence[TensorSpec], like: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return inputs of zeros by position, or by name if all names are parameters of ``forward``."""
    found = {
        spec.name: torch.zeros(
            [1 if size is None else size for size in spec.shape],
            device=like.device,
            dtype=like.dtype if spec.dtype.startswith("float") else getattr(torch, spec.dtype),
        )
        for spec in inputs
    }
    if set(found) <= set(inspect.signature(model.forward).parameters):
        return [], found
    return list(found.values()), {}


def _without_values(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {
        id(tensor): nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
        for tensor, empty in ((tensor, torch.empty_like(tensor, device="meta")) for tensor in tensors)
    }
    return copy.deepcopy(model, memo)
