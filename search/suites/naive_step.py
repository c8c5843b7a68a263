"""A direct implementation of the supernet from the paper's equations, the baseline of suite supernet-step."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import Branch, Conv1x1Avg3x3, Conv1x1Conv3x3, Identity
from irepdeploy.reparam.structure import replaced

from ..supernet.space import Bits, SearchSpace

__all__ = ["NaiveSupernet"]


class NaiveSupernet:
    """A copy of a supernet of 3x3 convolutions made of torch's own layers, also channels last.

    Alpha and beta multiply feature maps. The map between the two parts of a chain is padded as in DBB's published code:
    with the image of zero under the running statistics. In eval mode the outputs equal those of our supernet.
    """

    def __init__(self, model: nn.Module, space: SearchSpace) -> None:
        blocks: dict[nn.Module, _Block] = {
            module: _Block(module) for module in model.modules() if isinstance(module, RepBlock)
        }
        self.model = replaced(model, dict(blocks), {})
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self._blocks = list(blocks.values())
        self._space = space

    def step(self, images: Tensor, labels: Tensor, subnets: Sequence[Bits]) -> float:
        """Set ``.grad`` to the mean gradient of `subnets` and return their mean loss. Subnets update the statistics."""
        self.model.zero_grad(set_to_none=True)
        losses = []
        for bits in subnets:
            self.select(bits)
            loss = F.cross_entropy(self.model(images), labels) / len(subnets)
            loss.backward()
            losses.append(loss.item())
        return sum(losses)

    def select(self, bits: Bits) -> None:
        """Activate the branches of a candidate."""
        for block, names in zip(self._blocks, self._space.kept(bits), strict=True):
            block.active = names


class _Block(nn.Module):
    """Eq. 6."""

    def __init__(self, block: RepBlock) -> None:
        super().__init__()
        block = copy.deepcopy(block)
        self.fixed = nn.Sequential(block.fixed.conv, block.fixed.bn or nn.Identity())
        self.branches = nn.ModuleDict({name: _layers(branch) for name, branch in block.branches.items()})
        self.alpha, self.beta = block.alpha, block.beta
        self.active: list[str] = list(block.branches)

    def forward(self, x: Tensor) -> Tensor:
        out = self.fixed(x)
        if not self.active:
            return out
        assert self.beta is not None
        branches = [torch.sigmoid(self.alpha[name]) * self.branches[name](x) for name in self.active]
        return out + torch.sigmoid(self.beta) * sum(branches[1:], branches[0])


def _layers(branch: nn.Module) -> nn.Module:
    assert isinstance(branch, Branch)
    if isinstance(branch, Identity):
        return branch.bn
    if isinstance(branch, Conv1x1Conv3x3):
        branch.conv2.padding = (0, 0)
        return nn.Sequential(branch.conv1, _NormAndPad(branch.bn1), branch.conv2, branch.bn2)
    if isinstance(branch, Conv1x1Avg3x3):
        pool = nn.AvgPool2d(3, branch.geometry.stride)
        return nn.Sequential(branch.conv, _NormAndPad(branch.bn1), pool, branch.bn2)
    assert isinstance(branch.conv, nn.Conv2d) and isinstance(branch.bn, nn.BatchNorm2d)
    branch.conv.padding = branch.padding  # type: ignore[assignment]  # of a branch of taps: two numbers
    return nn.Sequential(branch.conv, branch.bn)


class _NormAndPad(nn.Module):
    """Batch normalization, then padding by one pixel with the image of zero under the running statistics."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.bn = bn

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        out = F.pad(bn(x), [1] * 4)
        edge = bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)
        edge = edge.reshape(1, -1, 1, 1)
        out[:, :, :1, :], out[:, :, -1:, :] = edge, edge
        out[:, :, :, :1], out[:, :, :, -1:] = edge, edge
        return out
