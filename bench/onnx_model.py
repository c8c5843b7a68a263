"""Convert a network to ONNX in memory without fusing its branches."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.export.target.target import TARGETS
from irepdeploy.export.writer.onnx_from_torch import serialized
from irepdeploy.export.writer.torch_exporter import write_onnx
from irepdeploy.limits import check_memory
from irepdeploy.reparam.block import RepBlock

__all__ = ["onnx_of"]


def onnx_of(net: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> bytes:
    """Return the network in eval mode as ONNX, not fused; a first dimension of None is a dynamic batch."""
    for spec in inputs:
        check_memory(4 * math.prod(size or 1 for size in spec.shape), f"the input {spec}")
    if any(isinstance(module, RepBlock) for module in net.modules()):
        net = _with_plain_sums(net)
    return serialized(write_onnx(net, inputs, outputs, target=TARGETS["ort"]).model)


class _Sum(nn.Module):
    """A RepBlock in eval mode, for measurements; `write_onnx` rejects RepBlocks, since they should not be deployed."""

    def __init__(self, block: RepBlock) -> None:
        super().__init__()
        self.geometry, self.fixed = block.geometry, block.fixed
        self.branches = nn.ModuleList(block.branches[name] for name in block.active)
        factors = [block.factor(name) for name in block.active]
        self.factors = [None if factor is None else factor.detach() for factor in factors]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = self.geometry.padding_mode != "zeros"
        if padded:
            x = self.geometry.pad(x)
        out: torch.Tensor = self.fixed(x, padded=padded)
        for branch, factor in zip(self.branches, self.factors, strict=True):
            out = out + branch(x, factor)
        return out


def _with_plain_sums(net: nn.Module) -> nn.Module:
    if isinstance(net, RepBlock):
        return _Sum(net).eval()
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RepBlock):
                setattr(parent, name, _Sum(child).eval())
    return net
