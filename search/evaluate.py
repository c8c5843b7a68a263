"""Score a population by fused networks: each branch fused once, a candidate a sum of cached kernels (Section 3.4).

A branch's fused kernel does not depend on the mask, and the sum of kernels is exact in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.data import Split
from irepdeploy.memory_format import channels_last
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse

from .space import Bits
from .supernet import Supernet

__all__ = ["Fitness", "PopulationEvaluator", "score"]


@dataclass(frozen=True, order=True)
class Fitness:
    """Accuracy in [0, 1], ties broken by the smaller loss; greater is better."""

    accuracy: float
    negative_loss: float


class PopulationEvaluator:
    """Scores candidates of a supernet as it stands: make a new one after its weights have moved.

    Args:
        supernet: put into eval mode while its branches are fused, and back.
        data: the search-validation set; never the test set.
        batch_size: images a forward pass.
    """

    def __init__(self, supernet: Supernet, data: Split, batch_size: int = 200) -> None:
        self._space = supernet.space
        self._data = data
        self._batch_size = batch_size
        was_training = supernet.model.training
        supernet.model.eval()
        # One plain network, whose kernels are swapped for each candidate.
        self._plain = channels_last(fuse(supernet.model, prove=False))
        self._layers = [
            _CachedLayer(supernet.model.get_submodule(name), self._plain.get_submodule(name), self._space.branches)
            for name in self._space.layers
        ]
        supernet.model.train(was_training)
        self._known: dict[bytes, Fitness] = {}

    def evaluate(self, population: Sequence[Bits]) -> list[Fitness]:
        """The fitness of each candidate; identical ones are scored once."""
        for bits in population:
            key = bits.tobytes()
            if key not in self._known:
                self._known[key] = score(self.network(bits), self._data, self._batch_size)
        return [self._known[bits.tobytes()] for bits in population]

    def network(self, bits: Bits) -> nn.Module:
        """The fused network of a candidate; the same module each time, with other kernels."""
        rows: list[list[str]] = [[] for _ in self._layers]
        for index, (row, column) in enumerate(self._space.positions):
            if bits[index]:
                rows[row].append(self._space.branches[column])
        for layer, names in zip(self._layers, rows, strict=True):
            layer.write(names)
        return self._plain


class _CachedLayer:
    """The fused kernels of one RepBlock, flattened into rows of one matrix: fixed operation first."""

    def __init__(self, block: nn.Module, conv: nn.Module, branches: Sequence[str]) -> None:
        assert isinstance(block, RepBlock) and isinstance(conv, nn.Conv2d)
        self._conv = conv
        names = [name for name in branches if name in block.branches]
        self._row = {name: index + 1 for index, name in enumerate(names)}
        with torch.no_grad():
            pairs = [block.fixed.equivalent(), *(block.branch_equivalent(name) for name in names)]
            self._shape = pairs[0][0].shape
            self._kernels = torch.stack([kernel.reshape(-1) for kernel, _ in pairs])
            self._biases = torch.stack([bias for _, bias in pairs])

    @torch.no_grad()
    def write(self, names: Sequence[str]) -> None:
        mask = torch.zeros(len(self._kernels), dtype=self._kernels.dtype)
        mask[[0, *(self._row[name] for name in names)]] = 1
        assert self._conv.bias is not None
        self._conv.weight.copy_((mask @ self._kernels).view(self._shape))
        self._conv.bias.copy_(mask @ self._biases)


@torch.inference_mode()
def score(network: nn.Module, data: Split, batch_size: int = 200) -> Fitness:
    """Accuracy and mean loss of a network in eval mode."""
    correct, loss = 0, 0.0
    for start in range(0, len(data), batch_size):
        images = channels_last(data.images[start : start + batch_size])
        labels = data.labels[start : start + batch_size]
        logits: Tensor = network(images)
        correct += int((logits.argmax(1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return Fitness(correct / len(data), -loss / len(data))
