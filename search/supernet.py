"""The supernet: all candidate operations at once, trained through the subnets of a population (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.memory_format import channels_last
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.presets import preset_of

from .builders import build_net
from .space import Bits, SearchSpace

__all__ = ["Supernet"]

Statistics = list[Tensor]


class Supernet:
    """A network with every possible branch, of which a subnet uses some.

    Attributes:
        model: the network, channels last.
        space: its search space.
    """

    def __init__(self, recipe: Recipe) -> None:
        preset = preset_of(recipe.branches)
        plain = build_net(recipe)
        self.model = channels_last(insert_branches(plain, recipe.branches, scaled=True))
        self.space = SearchSpace.of(self.model, preset.names)
        self._blocks = [self._block(name) for name in self.space.layers]
        # (batch normalisation, position of its branch or None): which statistics a subnet touches.
        self._norms = list(self._list_norms())

    def weights(self) -> Iterator[nn.Parameter]:
        """Omega: everything but alpha and beta."""
        arch = {id(parameter) for parameter in self.arch_parameters()}
        return (parameter for parameter in self.model.parameters() if id(parameter) not in arch)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Theta: alpha and beta."""
        for block in self._blocks:
            yield from block.alpha.parameters()
            if block.beta is not None:
                yield block.beta

    def select(self, bits: Bits | None) -> None:
        """Let the branches of a candidate take part, or all of them."""
        chosen: list[list[str]] = [[] for _ in self._blocks]
        for index, (row, column) in enumerate(self.space.positions):
            if bits is None or bits[index]:
                chosen[row].append(self.space.branches[column])
        for block, names in zip(self._blocks, chosen, strict=True):
            block.active = names

    def accumulate(self, images: Tensor, labels: Tensor, subnets: Sequence[Bits | None]) -> float:
        """Leave the mean gradient of `subnets` in ``.grad`` (Eq. 3) and return their mean loss.

        Parameters outside all subnets keep no gradient, so that no optimizer moves them. Every subnet starts from the
        same batch-normalisation statistics; the changes are averaged over the subnets that a statistic took part in, so
        that one process and many come to the same numbers.

        Args:
            images: (N, C, H, W), channels last.
            labels: (N,).
            subnets: candidates; None is the whole supernet.
        """
        before = [_statistics(bn) for bn, _ in self._norms]
        changes: list[list[Statistics]] = [[] for _ in self._norms]
        total = 0.0
        for bits in subnets:
            self.select(bits)
            loss = F.cross_entropy(self.model(images), labels)
            (loss / len(subnets)).backward()
            total += float(loss.detach())
            for index, (bn, position) in enumerate(self._norms):
                if position is None or bits is None or bits[position]:
                    after = _statistics(bn)
                    changes[index].append([new - old for new, old in zip(after, before[index], strict=True)])
                    _set_statistics(bn, before[index])
        for (bn, _), start, moved in zip(self._norms, before, changes, strict=True):
            if moved:
                mean = [sum(parts[1:], parts[0]) / len(moved) for parts in zip(*moved, strict=True)]
                _set_statistics(bn, [old + change for old, change in zip(start, mean, strict=True)])
        self.select(None)
        return total / len(subnets)

    def _block(self, name: str) -> RepBlock:
        block = self.model.get_submodule(name)
        assert isinstance(block, RepBlock)
        return block

    def _list_norms(self) -> Iterable[tuple[nn.BatchNorm2d, int | None]]:
        owner = {}
        for index, (row, column) in enumerate(self.space.positions):
            for module in self._blocks[row].branches[self.space.branches[column]].modules():
                owner[id(module)] = index
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                yield module, owner.get(id(module))


def _statistics(bn: nn.BatchNorm2d) -> Statistics:
    return [buffer.clone() for buffer in bn.buffers(recurse=False)]


def _set_statistics(bn: nn.BatchNorm2d, values: Statistics) -> None:
    for buffer, value in zip(bn.buffers(recurse=False), values, strict=True):
        buffer.copy_(value)
