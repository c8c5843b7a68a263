"""Count the training cost of candidates as a base cost plus a cost per branch, so that each candidate needs one sum.

These are counts, not measurements: the time on a GPU also depends on the number of kernel launches and on memory
traffic. `irepdeploy.profiling.training_cost` measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from irepdeploy.errors import IrepdeployError, ModelError, one_line
from irepdeploy.reparam.block import RepBlock
from irepdeploy.runtime.memory import is_out_of_memory

from ..supernet.space import Bits, SearchSpace

__all__ = ["CandidateCosts", "Cost"]

# Batch normalization in train mode needs more than one value per channel.
_BATCH = 2


@dataclass(frozen=True)
class Cost:
    """Training cost of a network in train state: trainable parameters, including alpha and beta, and their bytes.

    MACs and the bytes of activations kept for the backward pass are those of a forward pass of one image. The backward
    pass takes about twice as many MACs.
    """

    params: int
    macs: int
    activation_bytes: int
    param_bytes: int

    def memory_bytes(self, batch_size: int) -> int:
        """Return the bytes of parameters, gradients and momentum, and of the activations of a batch."""
        return 3 * self.param_bytes + batch_size * self.activation_bytes


class CandidateCosts:
    """Cost of every candidate of a supernet for images of (C, H, W), from one pass over shapes alone.

    Costs are those of exact steps, which sum the feature maps of the branches, whatever `step` the supernet uses.
    """

    def __init__(self, supernet: nn.Module, space: SearchSpace, input_shape: tuple[int, ...]) -> None:
        blocks = space.blocks(supernet)
        active = [(block.active, block.step) for block in blocks]
        was_training = supernet.training
        added: list[Counts] = []
        supernet.train()
        try:
            for block in blocks:
                block.active, block.step = (), "exact"
            base, inputs = _base(supernet, blocks, input_shape)
            # Layers with the same geometry and input share the costs of their branches.
            alone: dict[Any, tuple[int, int]] = {}
            known: dict[Any, Counts] = {}
            for row, column in space.positions:
                block, name, shape = blocks[row], space.branches[column], inputs[row]
                layer = block.geometry, shape
                if shape is not None and layer not in alone:
                    alone[layer] = _traced(block, shape)
                if (layer, name) not in known:
                    known[layer, name] = _added(block, name, shape, alone.get(layer, (0, 0)))
                added.append(known[layer, name])
            # A block has a beta as soon as it keeps a branch.
            betas = [(0, 0) if block.beta is None else _size(block.beta) for block in blocks]
        finally:
            supernet.train(was_training)
            for block, (names, step) in zip(blocks, active, strict=True):
                block.active, block.step = names, step
        self._layer = space.layer
        self._base = torch.tensor(base)
        self._added = torch.tensor(added).reshape(-1, 4)
        self._betas = torch.tensor([[count, 0, 0, size] for count, size in betas])

    def of(self, bits: Bits) -> Cost:
        """Return the cost of a candidate."""
        used = torch.zeros(len(self._betas), dtype=torch.bool)
        used[self._layer[bits]] = True
        total = self._base + self._added[torch.from_numpy(bits)].sum(0) + self._betas[used].sum(0)
        return Cost(*(int(value) for value in total))


Counts = tuple[int, int, int, int]


def _base(
    supernet: nn.Module, blocks: list[RepBlock], input_shape: tuple[int, ...]
) -> tuple[Counts, list[tuple[int, ...] | None]]:
    """Count the network without branches; also return the shape that each block reads."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(block: nn.Module, args: tuple[Tensor, ...]) -> None:
        shapes[block] = tuple(args[0].shape)

    hooks = [block.register_forward_pre_hook(note) for block in blocks]
    try:
        macs, kept = _traced(supernet, (_BATCH, *input_shape), images=True)
    finally:
        for hook in hooks:
            hook.remove()
    searched = (part for block in blocks for part in (block.branches, block.alpha))
    inside = {id(parameter) for part in searched for parameter in part.parameters()}
    inside |= {id(block.beta) for block in blocks}
    params, size = _sizes(p for p in supernet.parameters() if id(p) not in inside)
    # A layer that forward does not call reads nothing.
    return (params, macs, kept, size), [shapes.get(block) for block in blocks]


def _added(block: RepBlock, name: str, shape: tuple[int, ...] | None, alone: tuple[int, int]) -> Counts:
    """Count what a branch adds to a block without other branches, whose cost without it is `alone`."""
    macs = kept = 0
    if shape is not None:
        block.active = (name,)
        try:
            macs, kept = (after - old for after, old in zip(_traced(block, shape), alone, strict=True))
        finally:
            block.active = ()
    own = [*block.branches[name].parameters(), *([block.alpha[name]] if name in block.alpha else [])]
    params, size = _sizes(own)
    return params, macs, kept, size


def _traced(module: nn.Module, shape: tuple[int, ...], *, images: bool = False) -> tuple[int, int]:
    """Count MACs and kept bytes of one image by running the module on shapes alone; `images` need no gradient.

    A network whose control flow depends on values, such as a batch counter, runs on zeros instead.

    Raises:
        ModelError: The network cannot run in train mode.
    """
    try:
        return _run(module, shape, "meta", images=images)
    except Exception:  # anything that a user's network raises on tensors without values
        try:
            return _run(module, shape, next(module.parameters()).device, images=images)
        except Exception as error:
            if isinstance(error, IrepdeployError) or is_out_of_memory(error):
                raise
            raise ModelError(f"the network fails in train mode: {one_line(error)}", where="net") from error


def _run(module: nn.Module, shape: tuple[int, ...], device: str | torch.device, *, images: bool) -> tuple[int, int]:
    """Run on copies of the weights and buffers."""
    copies: dict[Tensor, Tensor] = {}
    state: dict[str, Tensor] = {}
    # By module, not by name: given every name of a shared module, functional_call leaves its tensors in that module.
    for prefix, part in module.named_modules():
        for name, tensor in [*part.named_parameters(prefix, False), *part.named_buffers(prefix, False)]:
            if tensor not in copies:
                copies[tensor] = tensor.detach().to(device, copy=True).requires_grad_(tensor.requires_grad)
            state[name] = copies[tensor]
    like = next(module.parameters())
    x = torch.zeros(shape, dtype=like.dtype, device=device, requires_grad=not images)
    given = {tensor.untyped_storage()._cdata for tensor in state.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            kept[storage._cdata] = storage
        return tensor

    with _Macs() as macs, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(module, state, (x,), tie_weights=False)
    return macs.total // shape[0], sum(storage.nbytes() for storage in kept.values()) // shape[0]


class _Macs(TorchDispatchMode):
    """Counts multiply-accumulates as `irepdeploy.profiling.counts` does, several times faster for many small runs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            # torch counts a multiply-accumulate as two operations.
            self.total += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out


def _sizes(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    found = [_size(parameter) for parameter in parameters]
    return sum(count for count, _ in found), sum(size for _, size in found)


def _size(parameter: nn.Parameter) -> tuple[int, int]:
    return parameter.numel(), parameter.numel() * parameter.element_size()
