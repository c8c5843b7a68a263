"""Kernels of a supernet: each branch is fused once, and a candidate is a sum of kernels (Section 3.4).

The kernel of a branch does not depend on the mask, and in eval mode the sum of kernels is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.structure import plain_conv, replaced
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

from ..supernet.space import SearchSpace

__all__ = ["PlainNetwork"]


class PlainNetwork:
    """A plain network that takes the kernels of one candidate after another, in place.

    Its tensors keep their addresses, so that it can be compiled, or captured as a CUDA graph, once. Kernels are summed
    in the supernet's dtype and rounded once to `dtype`; the remaining batch normalizations keep the supernet's dtype.

    Attributes:
        network: The network in eval mode, with the kernels of the last `write`.
    """

    def __init__(
        self,
        supernet: nn.Module,
        space: SearchSpace,
        *,
        dtype: torch.dtype | None = None,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self._supernet = supernet
        blocks = {name: block for name, block in supernet.named_modules() if isinstance(block, RepBlock)}
        convs = {name: plain_conv(block.geometry, like=block.fixed.conv) for name, block in blocks.items()}
        replacements: dict[nn.Module, nn.Module] = {blocks[name]: conv for name, conv in convs.items()}
        self.network = replaced(supernet, replacements, {}).eval().requires_grad_(False)
        self.network.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
        for module in self.network.modules() if dtype is not None else ():
            if isinstance(module, NORMS):
                module.to(dtype=next(supernet.parameters()).dtype)
        self._layers = [
            _Layer(blocks[name], convs[name], names) for name, names in zip(space.layers, space.kept(None), strict=True)
        ]
        # Modules that are not fused are shared: head, other convolutions and their batch normalizations.
        # A block that is used in several places has several names.
        fused = {id(parameter) for conv in convs.values() for parameter in conv.parameters()}
        self._shared = [
            name for name, value in self.network.state_dict(keep_vars=True).items() if id(value) not in fused
        ]
        self.refresh()

    @torch.no_grad()
    @exact_arithmetic()
    def refresh(self) -> None:
        """Fuse every branch of the supernet again, and copy the modules that are not fused."""
        for layer in self._layers:
            layer.fuse()
        target, source = self.network.state_dict(), self._supernet.state_dict()
        for name in self._shared:
            target[name].copy_(source[name])

    @torch.no_grad()
    @exact_arithmetic()
    def write(self, mask: Tensor) -> None:
        """Write the kernels of a candidate into the network.

        Args:
            mask: (positions,), 1 for each branch that is kept, in the supernet's dtype and on its device.
        """
        start = 0
        for layer in self._layers:
            layer.write(mask[start : start + len(layer.names)])
            start += len(layer.names)


class _Layer:
    """Kernels of one RepBlock, a row per branch, in the memory layout of the convolution that receives their sum."""

    def __init__(self, block: RepBlock, conv: nn.Conv2d, names: list[str]) -> None:
        self.names = names
        self._block = block
        assert conv.bias is not None
        self._bias = conv.bias
        # As (C_out, K, K, C_in/groups) in channels-last memory.
        self._order = (0, 2, 3, 1) if conv.weight.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2, 3)
        self._weight = conv.weight.permute(self._order)
        like = block.fixed.conv.weight
        self._fixed_kernel, self._fixed_bias = like.new_empty(like.numel()), like.new_empty(len(like))
        self._kernels = like.new_empty(len(names), like.numel())
        self._biases = like.new_empty(len(names), len(like))

    def fuse(self) -> None:
        kernel, bias = self._block.fixed.equivalent()
        self._fixed_kernel.copy_(self._flat(kernel))
        self._fixed_bias.copy_(bias)
        for row, name in enumerate(self.names):
            kernel, bias = self._block.branch_equivalent(name)
            self._kernels[row].copy_(self._flat(kernel))
            self._biases[row].copy_(bias)

    def write(self, mask: Tensor) -> None:
        kernel = torch.addmv(self._fixed_kernel, self._kernels.T, mask)
        self._weight.copy_(kernel.view(self._weight.shape))
        self._bias.copy_(torch.addmv(self._fixed_bias, self._biases.T, mask))

    def _flat(self, kernel: Tensor) -> Tensor:
        return kernel.permute(self._order).reshape(-1)
